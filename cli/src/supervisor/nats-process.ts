/**
 * The local cluster's own nats-server: JetStream, loopback, a free port, a store of its own.
 *
 * Invariant: port and store are those of the first start for as long as the supervisor lives,
 * so that after a crash every client finds it again with its streams.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { delay } from '@kvasir/runtime/deferred'
import { DeadlineError, UnavailableError } from '@kvasir/runtime/errors'
import { type Child, type ChildExit, spawnChild } from '@kvasir/runtime/lifecycle'
import { findNatsServer } from '#setup/nats-server'

const host = '127.0.0.1'
const pollMs = 20

/** Ends the program that would have been nats-server where the supervisor died before the kernel was told to watch it. */
const bornOrphanCheck = 'test "$PPID" = "$KVASIR_PARENT_PID" || exit 1; exec "$0" "$@"'

export interface NatsOptions {
  readonly folder: string
  readonly logFile: string
  /** Undefined at the first start: the server takes a free one. */
  readonly port: number | undefined
  readonly deadlineMs: number
  readonly onExit: (exit: ChildExit) => void
}

/**
 * Starts it; `ready` gives its port once it answers.
 * @throws UnavailableError where the program is missing; `ready` rejects where it dies or does not answer
 */
export function launchNats(options: NatsOptions): { child: Child; ready: Promise<number> } {
  const program = findNatsServer()
  if (program === undefined) {
    throw new UnavailableError(
      'nats-server is missing: run `npm run setup`, or set KVASIR_NATS_SERVER to its path, then try again.',
    )
  }
  mkdirSync(options.folder, { recursive: true })
  const args = [
    ...['--addr', host, '--port', String(options.port ?? -1)],
    ...['--jetstream', '--store_dir', path.join(options.folder, 'store')],
    ...['--ports_file_dir', options.folder],
  ]
  const child = spawnChild('/bin/sh', ['-c', bornOrphanCheck, program, ...args], {
    name: 'nats-server',
    logFile: options.logFile,
    onExit: options.onExit,
  })
  return { child, ready: waitUntilAnswering(child, options) }
}

async function waitUntilAnswering(child: Child, options: NatsOptions): Promise<number> {
  const end = performance.now() + options.deadlineMs
  while (performance.now() < end) {
    if (!child.running) throw new UnavailableError((await child.exited).reason)
    const port = options.port ?? portInFile(path.join(options.folder, `nats-server_${child.pid}.ports`))
    if (port !== undefined && (await answers(port))) return port
    await delay(pollMs)
  }
  throw new DeadlineError(
    `nats-server did not answer within ${options.deadlineMs} ms: read its log, ${options.logFile}.`,
  )
}

function portInFile(file: string): number | undefined {
  if (!existsSync(file)) return undefined
  try {
    const ports: { nats?: string[] } = JSON.parse(readFileSync(file, 'utf8'))
    const url = ports.nats?.[0]
    return url === undefined ? undefined : Number(new URL(url).port)
  } catch {
    // The server is still writing it.
    return undefined
  }
}

/** Whether the port greets as NATS does. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect({ host, port, timeout: 500 })
    const finish = (result: boolean) => {
      socket.destroy()
      resolve(result)
    }
    socket.once('data', (data) => finish(data.toString('latin1').startsWith('INFO ')))
    socket.once('error', () => finish(false))
    socket.once('timeout', () => finish(false))
    socket.once('close', () => finish(false))
  })
}
