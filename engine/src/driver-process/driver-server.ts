/**
 * A driver behind a Unix socket: one agent at a time, and after it the next one.
 *
 * L1 A second agent is told to wait for the first, and no more.
 * L2 The socket's file belongs to whoever listens: one that nobody listens on any more is replaced.
 */
import { rm } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { DriverReply } from '@kvasir/proto/kvasir/driver/v1/driver'
import { AlreadyExistsError, InvalidInputError, messageOf, UnavailableError } from '@kvasir/runtime/errors'
import type { DeviceDriver } from '../device-driver.js'
import { type DriverSession, serveDriver } from './driver-session.js'
import { failureMessage } from './failure-message.js'
import { writeFrame } from './frames.js'

/** How long who was refused may take to leave. */
const REFUSED_MS = 1_000

export interface DriverServer {
  /** Ends the connection and the listening; the driver stays. */
  close(): Promise<void>
}

export interface DriverServerOptions {
  readonly socketPath: string
  /** Told why a connection ended, where that was not the agent's wish. */
  readonly onViolation?: (why: string) => void
  /** How long who connects may take to say Hello; 10 s where absent. */
  readonly helloMs?: number
}

/** Resolves when agents can connect. Throws AlreadyExistsError where another process listens there. */
export async function startDriverServer(
  driver: DeviceDriver,
  { socketPath, onViolation, helloMs }: DriverServerOptions,
): Promise<DriverServer> {
  if (await isListened(socketPath)) {
    throw new AlreadyExistsError(`Another driver listens on ${socketPath}; end it or choose another path.`)
  }
  await rm(socketPath, { force: true })
  let session: DriverSession | undefined
  const server = createServer((socket) => {
    if (session !== undefined) return refuse(socket)
    const own = serveDriver(driver, socket, helloMs)
    session = own
    void own.ended.then((violation) => {
      session = undefined
      if (violation !== undefined) onViolation?.(violation)
    })
  })
  await listen(server, socketPath)
  return {
    async close() {
      const ended = session?.ended
      session?.close()
      await new Promise<void>((resolve) => server.close(() => resolve()))
      await ended
    },
  }
}

function refuse(socket: Socket): void {
  socket.on('error', () => {})
  // Nobody reads what it says, but without reading its end is not seen either.
  socket.resume()
  socket.setTimeout(REFUSED_MS, () => socket.destroy())
  const failure = failureMessage(new UnavailableError('The device serves another agent; try again later.'))
  // The id of Hello, which is the first call.
  writeFrame(socket, DriverReply.encode({ id: 1n, reply: { $case: 'failure', value: failure } }).finish())
  socket.end()
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) =>
      reject(new InvalidInputError(`Cannot listen on ${path}: ${messageOf(error)}; choose another path.`)),
    )
    server.listen(path, resolve)
  })
}

function isListened(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
