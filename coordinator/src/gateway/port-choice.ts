/**
 * Which port the server listens on: one asked for by name or none, one preferred or the
 * next free one after it.
 */
import type { AddressInfo } from 'node:net'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'

const PORT_DEFAULT = 8080
const PORTS_TRIED_MAX = 100

export interface ChosenPort {
  readonly port: number
  /** One sentence, where it is not the port that was preferred. */
  readonly note: string | undefined
}

/** Throws InvalidInputError with one clear sentence where no port can be had. */
export async function listenOnPort(
  wish: {
    readonly host: string
    readonly port?: number | undefined
    readonly portPreferred?: number | undefined
  },
  listen: (port: number) => Promise<AddressInfo>,
): Promise<ChosenPort> {
  if (wish.port !== undefined) {
    try {
      return { port: (await listen(wish.port)).port, note: undefined }
    } catch (thrown) {
      throw cannotListen(thrown, wish.host, wish.port)
    }
  }
  const preferred = wish.portPreferred ?? PORT_DEFAULT
  for (let port = preferred; port < preferred + PORTS_TRIED_MAX && port <= 65_535; port++) {
    try {
      const taken = port !== preferred
      const address = await listen(port)
      const note = taken ? `Port ${preferred} is taken, so this is port ${address.port}.` : undefined
      return { port: address.port, note }
    } catch (thrown) {
      if (codeOf(thrown) !== 'EADDRINUSE') throw cannotListen(thrown, wish.host, port)
    }
  }
  throw new InvalidInputError(
    `No port from ${preferred} to ${preferred + PORTS_TRIED_MAX - 1} is free on ${wish.host}. Choose another with --port-preferred.`,
    { param: 'portPreferred' },
  )
}

function cannotListen(thrown: unknown, host: string, port: number): InvalidInputError {
  const details = { param: 'port', cause: thrown }
  switch (codeOf(thrown)) {
    case 'EADDRINUSE':
      return new InvalidInputError(
        `Port ${port} on ${host} is taken. Choose another with --port, or leave --port out to take a free one.`,
        details,
      )
    case 'EACCES':
      return new InvalidInputError(
        `This user may not listen on port ${port} of ${host}. Choose a port from 1024 up with --port.`,
        details,
      )
    default:
      return new InvalidInputError(
        `Cannot listen on ${host}, port ${port} (${messageOf(thrown)}). Check --host and --port.`,
        details,
      )
  }
}

function codeOf(thrown: unknown): unknown {
  return typeof thrown === 'object' && thrown !== null && 'code' in thrown ? thrown.code : undefined
}
