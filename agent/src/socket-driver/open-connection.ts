/** Connects to a driver's socket and greets it, as often as it takes within a deadline. */
import { connect, type Socket } from 'node:net'
import { errorOfFailure } from '@kvasir/engine/driver-process/failure-message'
import { FrameReader, PAYLOAD_BYTES_MAX, writeFrame } from '@kvasir/engine/driver-process/frames'
import {
  DRIVER_PROTOCOL_VERSION,
  NAMED_MS,
  PROGRESS_MS_MAX,
  SILENCE_MS_MAX,
} from '@kvasir/engine/driver-process/protocol-limits'
import { DriverRequest, type HelloReply } from '@kvasir/proto/kvasir/driver/v1/driver'
import { type Deferred, deferred, delay, withDeadline } from '@kvasir/runtime/deferred'
import {
  CorruptDataError,
  InvalidInputError,
  KvasirError,
  messageOf,
  UnavailableError,
  UnsupportedError,
} from '@kvasir/runtime/errors'
import { answered, DriverConnection, decoded } from './driver-connection.js'
import { CONNECT_AGAIN_MS, CONNECT_MS_MAX } from './limits.js'

export interface ConnectionWish {
  readonly socketPath: string
  /** Whom the driver's log may name. */
  readonly agent: string
  readonly connectMs?: number
  /** Aborts where there is no use in waiting longer, such as at the end of the driver's process. */
  readonly signal?: AbortSignal
  /** What to say where the connection ends by itself; waited for a moment. */
  readonly reason?: () => Promise<string>
}

/** Throws UnavailableError where no driver answers in time, and what a driver that does not want us says. */
export async function openConnection(wish: ConnectionWish): Promise<DriverConnection> {
  const { socketPath, connectMs = CONNECT_MS_MAX, signal } = wish
  const endMs = performance.now() + connectMs
  for (;;) {
    signal?.throwIfAborted()
    try {
      return await greet(wish, Math.max(1, endMs - performance.now()))
    } catch (thrown) {
      const error = KvasirError.from(thrown)
      signal?.throwIfAborted()
      if (error.code !== 'unavailable') throw error
      if (performance.now() + CONNECT_AGAIN_MS >= endMs) {
        throw new UnavailableError(
          `No driver answers on ${socketPath} within ${Math.round(connectMs / 1_000)} s (${error.message.replace(/\.$/, '')}); start it, or correct the setting driver.`,
          { param: 'driver' },
        )
      }
      await delay(CONNECT_AGAIN_MS, signal)
    }
  }
}

/** One try. */
async function greet(
  { socketPath, agent, reason }: ConnectionWish,
  deadlineMs: number,
): Promise<DriverConnection> {
  const greeting: Deferred<HelloReply> = deferred()
  let connection: DriverConnection | undefined
  const reader = new FrameReader((message, payload) => {
    if (connection !== undefined) connection.take(message, payload)
    else if (greeting.settled) throw new CorruptDataError('it spoke before it was asked')
    else greeting.resolve(helloOf(message))
  })
  const failed = (thrown: unknown) => {
    if (connection === undefined) greeting.reject(thrown)
    else connection.lose(messageOf(thrown))
  }
  const socket = connect({
    path: socketPath,
    onread: {
      buffer: () => reader.target(),
      callback(bytes, target) {
        try {
          reader.filled(bytes, target)
        } catch (error) {
          failed(error)
          socket.destroy()
        }
        return true
      },
    },
  })
  let why = 'it closed the connection'
  socket.on('error', (error) => {
    why = messageOf(error)
  })
  socket.on('close', () => {
    greeting.reject(new UnavailableError(why))
    void (reason?.() ?? Promise.resolve(why)).then((said) => connection?.disconnected(said))
  })
  socket.once('connect', () => sendHello(socket, agent))
  try {
    const hello = await withDeadline(
      greeting.promise,
      Math.min(deadlineMs, SILENCE_MS_MAX),
      'waiting for its Hello',
    )
    connection = new DriverConnection(socket, hello, timesOf(hello))
    if (socket.destroyed) connection.disconnected(why)
    return connection
  } catch (thrown) {
    socket.destroy()
    const error = KvasirError.from(thrown)
    // It may yet be on its way; or another agent is about to leave it.
    if (error.code === 'deadline') throw new UnavailableError(error.message)
    if (error.code === 'corrupt')
      throw new InvalidInputError(`What listens on ${socketPath} is no driver: ${error.message}.`)
    throw error
  }
}

function sendHello(socket: Socket, agent: string): void {
  const request = {
    $case: 'hello',
    value: { protocolVersion: DRIVER_PROTOCOL_VERSION, agent, payloadBytesMax: BigInt(PAYLOAD_BYTES_MAX) },
  } as const
  writeFrame(socket, DriverRequest.encode({ id: 1n, model: 0, request }).finish())
}

/** Throws what the driver says instead, UnsupportedError for a version that is not spoken here. */
function helloOf(bytes: Uint8Array): HelloReply {
  const { id, reply } = decoded(bytes)
  if (reply.$case === 'failure') throw errorOfFailure(reply.value)
  if (id !== 1n) throw new CorruptDataError('it did not answer Hello first')
  const hello = answered({ reply, payload: new Uint8Array(0) }, 'hello')
  if (hello.protocolVersion !== DRIVER_PROTOCOL_VERSION) {
    throw new UnsupportedError(
      `The driver ${hello.name} speaks version ${hello.protocolVersion} of the driver's protocol, this agent version ${DRIVER_PROTOCOL_VERSION}; update the older one.`,
    )
  }
  return hello
}

/** Throws InvalidInputError for times that no driver may name. */
function timesOf({ silenceMsMax, progressMsMax, payloadBytesMax }: HelloReply) {
  const checked = (name: string, value: number, byDefault: number): number => {
    if (value === 0) return byDefault
    if (value >= NAMED_MS.min && value <= NAMED_MS.max) return value
    throw new InvalidInputError(
      `The driver names ${name} ${value}; it may name ${NAMED_MS.min} to ${NAMED_MS.max}.`,
    )
  }
  const most = Number(payloadBytesMax)
  return {
    silenceMs: checked('silence_ms_max', silenceMsMax, SILENCE_MS_MAX),
    progressMs: checked('progress_ms_max', progressMsMax, PROGRESS_MS_MAX),
    payloadBytesMax: most === 0 ? PAYLOAD_BYTES_MAX : Math.min(most, PAYLOAD_BYTES_MAX),
  }
}
