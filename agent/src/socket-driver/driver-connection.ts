/**
 * The agent's end of the connection to a driver (proto/kvasir/driver/v1/driver.proto): calls, their answers, and
 * the watch over both.
 *
 * Invariants:
 * C1 Every call settles. Once the connection is lost, for whatever reason, pending and later calls reject
 *    with that reason, and `lost` resolves with it; after `close` they reject and it does not.
 * C2 A driver that hangs is noticed within what the protocol allows it (P5), one that ends at once.
 * C3 Whatever arrives that may not loses the connection, and throws nothing at anybody else.
 */
import type { Socket } from 'node:net'
import { errorOfFailure } from '@kvasir/engine/driver-process/failure-message'
import { writeFrame } from '@kvasir/engine/driver-process/frames'
import { LOAD_MS_MAX } from '@kvasir/engine/driver-process/protocol-limits'
import { DriverReply, DriverRequest, type HelloReply } from '@kvasir/proto/kvasir/driver/v1/driver'
import { type Deferred, deferred } from '@kvasir/runtime/deferred'
import {
  CancelledError,
  CorruptDataError,
  InvalidInputError,
  type KvasirError,
  messageOf,
  OverloadedError,
  UnreachableError,
} from '@kvasir/runtime/errors'
import { CALLS_MAX, CLOSE_MS, PING_MS, UNSENT_BYTES_MAX } from './limits.js'

export type Request = NonNullable<DriverRequest['request']>
export type Reply = NonNullable<DriverReply['reply']>

/** A frame from the driver. */
export interface Said {
  readonly reply: Reply
  /** Stands in a buffer of its own. */
  readonly payload: Uint8Array<ArrayBuffer>
}

export interface CallOptions<T> {
  /** 0: of no model. */
  readonly model?: number
  readonly payload?: readonly Uint8Array[]
  /** Throws CorruptDataError for an answer that cannot be. */
  readonly read: (said: Said) => T
  /** For a step: what is said before its answer. Throws as `read`. */
  readonly onEvent?: (id: bigint, said: Said) => void
  /** The call's id, before anything is said. */
  readonly onSent?: (id: bigint) => void
}

interface Pending {
  readonly name: Request['$case']
  readonly sinceMs: number
  readonly take: (said: Said) => void
  readonly reject: (error: KvasirError) => void
  readonly onEvent: ((id: bigint, said: Said) => void) | undefined
}

/** Time between two looks at what is due. */
const WATCH_MS = { min: 25, max: 1_000 } as const
const EVENTS: ReadonlySet<Reply['$case']> = new Set(['layer', 'ask'])

export class DriverConnection {
  readonly hello: HelloReply
  readonly #socket: Socket
  readonly #silenceMs: number
  readonly #progressMs: number
  readonly #payloadBytesMax: number
  readonly #pending = new Map<bigint, Pending>()
  readonly #lost: Deferred<KvasirError> = deferred()
  readonly #closed: Deferred<void> = deferred()
  readonly #watch: NodeJS.Timeout
  #lastId: bigint
  #ended: KvasirError | undefined
  #heardMs = performance.now()
  #stepProgressMs = 0
  #watchedMs = performance.now()

  /**
   * `socket`: on which Hello was call 1 and has been answered; what comes next is given to `take`.
   * Its end is told to `disconnected`.
   */
  constructor(
    socket: Socket,
    hello: HelloReply,
    times: { readonly silenceMs: number; readonly progressMs: number; readonly payloadBytesMax: number },
  ) {
    this.#socket = socket
    this.hello = hello
    this.#lastId = 1n
    this.#silenceMs = times.silenceMs
    this.#progressMs = times.progressMs
    this.#payloadBytesMax = times.payloadBytesMax
    const everyMs = Math.min(
      WATCH_MS.max,
      Math.max(WATCH_MS.min, Math.min(times.silenceMs, times.progressMs) / 4),
    )
    this.#watch = setInterval(() => this.#look(everyMs), everyMs)
  }

  get lost(): Promise<KvasirError> {
    return this.#lost.promise
  }

  /** Resolves with what `read` makes of the answer; rejects with the driver's failure, or as C1 says. */
  call<T>(request: Request, options: CallOptions<T>): Promise<T> {
    const { model = 0, payload = [], read, onEvent, onSent } = options
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    const refusal = this.#refusal(payload)
    if (refusal !== undefined) return Promise.reject(refusal)
    const nowMs = performance.now()
    if (this.#pending.size === 0) this.#heardMs = nowMs
    if (request.$case === 'step' && !this.#hasStep()) this.#stepProgressMs = nowMs
    this.#lastId += 1n
    const id = this.#lastId
    onSent?.(id)
    return new Promise<T>((resolve, reject) => {
      const take = (said: Said) => {
        if (said.reply.$case === 'failure') reject(errorOfFailure(said.reply.value))
        else resolve(read(said))
      }
      this.#pending.set(id, { name: request.$case, sinceMs: nowMs, take, reject, onEvent })
      try {
        writeFrame(this.#socket, DriverRequest.encode({ id, model, request }).finish(), payload)
      } catch (error) {
        this.#pending.delete(id)
        reject(new InvalidInputError(messageOf(error)))
      }
    })
  }

  /** Sends what gets no answer: Cancel and Answer of the step of this id. */
  post(
    id: bigint,
    request: Extract<Request, { $case: 'cancel' | 'answer' }>,
    payload: readonly Uint8Array[] = [],
  ): void {
    if (this.#ended !== undefined) return
    this.#stepProgressMs = performance.now()
    writeFrame(this.#socket, DriverRequest.encode({ id, model: 0, request }).finish(), payload)
  }

  /** Takes a frame. Never throws. */
  take(bytes: Uint8Array, payload: Uint8Array<ArrayBuffer>): void {
    if (this.#ended !== undefined) return
    this.#heardMs = performance.now()
    try {
      const { id, reply } = decoded(bytes)
      if (reply.$case === 'alive') return
      const call = this.#pending.get(id)
      if (call === undefined) {
        throw new CorruptDataError(`it answered call ${id}, which it was not asked or has answered already`)
      }
      if (call.name === 'step') this.#stepProgressMs = this.#heardMs
      if (EVENTS.has(reply.$case)) {
        if (call.onEvent === undefined) throw new CorruptDataError(`it said ${reply.$case} of a ${call.name}`)
        call.onEvent(id, { reply, payload })
      } else {
        call.take({ reply, payload })
        this.#pending.delete(id)
      }
    } catch (error) {
      this.lose(messageOf(error))
    }
  }

  /** The connection is over, for this reason. `why`: a sentence's end, without its stop. */
  lose(why: string): void {
    if (this.#ended !== undefined) return
    const error = new UnreachableError(`The driver of this device is lost: ${why.replace(/\.$/, '')}.`)
    this.#end(error)
    this.#socket.destroy()
    this.#lost.resolve(error)
  }

  /** The socket is closed. */
  disconnected(why: string): void {
    this.#closed.resolve()
    this.lose(why)
  }

  /** Resolves when the socket is closed. */
  async close(): Promise<void> {
    this.#end(new CancelledError('The driver was closed.'))
    if (this.#closed.settled) return
    this.#socket.end()
    const force = setTimeout(() => this.#socket.destroy(), CLOSE_MS)
    await this.#closed.promise
    clearTimeout(force)
  }

  #end(error: KvasirError): void {
    this.#ended ??= error
    clearInterval(this.#watch)
    for (const { reject } of this.#pending.values()) reject(this.#ended)
    this.#pending.clear()
  }

  #refusal(payload: readonly Uint8Array[]): KvasirError | undefined {
    const bytes = payload.reduce((sum, { byteLength }) => sum + byteLength, 0)
    if (bytes > this.#payloadBytesMax) {
      return new InvalidInputError(`The driver takes ${this.#payloadBytesMax} bytes at a time, not ${bytes}.`)
    }
    if (this.#pending.size < CALLS_MAX && this.#socket.writableLength + bytes <= UNSENT_BYTES_MAX)
      return undefined
    return new OverloadedError('The driver has more work waiting than it may; try again later.')
  }

  #hasStep(): boolean {
    for (const { name } of this.#pending.values()) if (name === 'step') return true
    return false
  }

  #look(everyMs: number): void {
    const nowMs = performance.now()
    const isLate = nowMs - this.#watchedMs > 2 * everyMs
    this.#watchedMs = nowMs
    // This process stood still: what the driver said meanwhile has yet to be read.
    if (isLate) return
    if (this.#pending.size === 0) {
      if (nowMs - this.#heardMs >= PING_MS) {
        // Lost, it rejects, which `lost` tells.
        this.call({ $case: 'ping', value: {} }, { read: readDone }).catch(() => {})
      }
      return
    }
    if (nowMs - this.#heardMs > this.#silenceMs) {
      const [{ name } = { name: 'call' }] = this.#pending.values()
      this.lose(`it said nothing for ${seconds(this.#silenceMs)} while it had a ${name} to do`)
      return
    }
    for (const { name, sinceMs } of this.#pending.values()) {
      const isLong = name === 'load' || name === 'inspect'
      const allowedMs = isLong ? LOAD_MS_MAX : this.#progressMs
      if (nowMs - (name === 'step' ? this.#stepProgressMs : sinceMs) <= allowedMs) continue
      this.lose(`it made no progress with a ${name} for ${seconds(allowedMs)}`)
      return
    }
  }
}

/** Throws CorruptDataError for bytes that are no reply. */
export function decoded(bytes: Uint8Array): { readonly id: bigint; readonly reply: Reply } {
  let message: DriverReply
  try {
    message = DriverReply.decode(bytes)
  } catch {
    throw new CorruptDataError('it sent bytes that are no DriverReply')
  }
  const { id, reply } = message
  if (reply === undefined) throw new CorruptDataError('it sent a reply of an unknown kind')
  return { id, reply }
}

type ValueOf<Case extends Reply['$case']> = Extract<Reply, { $case: Case }>['value']

/** The answer of this kind. Throws CorruptDataError for another. */
export function answered<Case extends Reply['$case']>({ reply }: Said, kind: Case): ValueOf<Case> {
  // The compiler does not narrow a union by a variable name.
  if (reply.$case === kind) return reply.value as ValueOf<Case>
  throw new CorruptDataError(`it answered with ${reply.$case} where ${kind} was due`)
}

/** For calls whose answer is Done without a payload. */
export function readDone(said: Said): void {
  answered(said, 'done')
  if (said.payload.length > 0)
    throw new CorruptDataError(`it sent ${said.payload.length} bytes where none are due`)
}

/** For calls whose answer is Done with a payload of so many bytes. */
export function readBytes(said: Said, bytes: number): Uint8Array<ArrayBuffer> {
  answered(said, 'done')
  if (said.payload.length === bytes) return said.payload
  throw new CorruptDataError(`it sent ${said.payload.length} bytes where ${bytes} are due`)
}

function seconds(ms: number): string {
  return `${Math.round(ms / 100) / 10} s`
}
