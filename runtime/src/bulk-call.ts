/**
 * One gRPC call on a connection for bulk data, either end, as a stream of messages that looks like grpc-js's: the
 * handlers and helpers of rpc-handlers.ts and rpc-client.ts serve both transports.
 *
 * Invariants:
 * B1 `write` calls back when the socket has taken the whole message; from then on its bytes are the caller's.
 * B2 The peer's window opens by what was read here, and by nothing else.
 * B3 What arrived is handed out before the call's end is.
 */
import { Duplex } from 'node:stream'
import { framed, MessageReader } from './grpc-wire.js'
import type { Http2Stream } from './http2/stream.js'

/** A method whose answer need not stand in one piece: its parts go out as they are and are not changed until then. */
export interface PartedMethod<Response> {
  responseParts(message: Response): readonly Uint8Array[]
}

/** A method as a transport sees it, which neither knows nor cares what the messages are. */
export interface AnyMethod extends Partial<PartedMethod<never>> {
  readonly path: string
  readonly requestStream: boolean
  readonly responseStream: boolean
  requestSerialize(message: never): Buffer
  requestDeserialize(bytes: Buffer): unknown
  responseSerialize(message: never): Buffer
  responseDeserialize(bytes: Buffer): unknown
}

export interface Codec {
  encode(message: never): readonly Uint8Array[]
  decode(message: Buffer): unknown
}

/** Messages of a megabyte: a few are enough to keep a reader busy. */
const READ_AHEAD = 2

export abstract class BulkCall extends Duplex {
  private readonly arrived: { readonly message: unknown; readonly unread: number }[] = []
  private wanted = false
  /** What follows the last message. */
  private atEnd: (() => void) | undefined
  private readonly reader: MessageReader

  constructor(
    protected readonly stream: Http2Stream,
    private readonly codec: Codec,
    windowBytes: number,
  ) {
    super({ objectMode: true, readableHighWaterMark: READ_AHEAD, writableHighWaterMark: READ_AHEAD })
    // The rest of a message that is larger than the window must be let in before anybody can read it.
    const early = (bytes: number) => Math.max(0, bytes - windowBytes / 2)
    this.reader = new MessageReader({
      begun: (bytes) => stream.consumed(early(bytes)),
      message: (message, bytes) => this.receive(codec.decode(message), bytes - early(bytes)),
    })
  }

  override _read(): void {
    this.wanted = true
    this.pump()
  }

  override _write(message: never, _encoding: string, done: () => void): void {
    let parts: readonly Uint8Array[]
    try {
      parts = this.codec.encode(message)
    } catch (error) {
      done()
      this.broken(error)
      return
    }
    this.stream.send(framed(parts), () => done())
  }

  /** The call cannot go on: a message cannot be read or written. */
  protected abstract broken(error: unknown): void

  /** A message came. `unread`: what its reading opens the window by. */
  protected receive(message: unknown, unread: number): void {
    this.arrived.push({ message, unread })
    this.pump()
  }

  protected feed(bytes: Buffer): void {
    try {
      this.reader.feed(bytes)
    } catch (error) {
      this.broken(error)
    }
  }

  /** Where the next bytes of the peer should be put. */
  room(bytes: number): Buffer | undefined {
    return this.reader.room(bytes)
  }

  filled(bytes: number): void {
    try {
      this.reader.filled(bytes)
    } catch (error) {
      this.broken(error)
    }
  }

  /** Whether the peer's messages end here with the last one whole. */
  protected get isWhole(): boolean {
    return this.reader.isBetween
  }

  /** Called once, when the last message was handed out. */
  protected afterLast(end: () => void): void {
    this.atEnd ??= end
    this.pump()
  }

  /** Nobody will read what has arrived. */
  protected dropArrived(): void {
    this.arrived.length = 0
  }

  private pump(): void {
    while (this.wanted && this.arrived.length > 0) {
      const next = this.arrived.shift()
      if (next === undefined) break
      this.stream.consumed(next.unread)
      this.wanted = this.push(next.message)
    }
    if (this.arrived.length > 0 || this.atEnd === undefined) return
    const end = this.atEnd
    this.atEnd = () => {}
    end()
  }
}
