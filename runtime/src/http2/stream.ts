/**
 * One stream of an HTTP/2 connection: what waits to be sent on it, and both windows.
 *
 * Invariants:
 * S1 What was given to be sent leaves in order, or is let go with the stream; either way `done` is called once,
 *    and from then on the bytes are the caller's again.
 * S2 The peer may send what the window says, which opens by what was `consumed` and by nothing else.
 * S3 `lost` is called at most once, and nothing after it; not where both sides ended well or we reset.
 */
import { FLAG, FRAME, frame, frameHead, numberFrame } from './frames.js'
import { encodeHeaders } from './hpack.js'
import type { Header } from './hpack-tables.js'
import { H2, Http2Error } from './http2-error.js'

export interface StreamListener {
  headers(headers: readonly Header[]): void
  /** Good until it returns. */
  data(bytes: Buffer): void
  /** Where at most `bytes` more of its data should be put; undefined where `data` is to have them. */
  room?(bytes: number): Buffer | undefined
  /** So many bytes have been put into the room. */
  filled?(bytes: number): void
  /** The peer sends no more. */
  ended(): void
  /** The peer has reset the stream with this code, or the connection is lost. */
  lost(reason: { readonly code: number } | { readonly lost: Error }): void
}

/** What a stream needs of its connection. */
export interface StreamOwner {
  readonly frameBytesMax: number
  /** Bytes that the peer takes on all streams together. */
  sendWindow: number
  readonly receiveWindowBytes: number
  write(bytes: Uint8Array, done?: () => void): void
  /** The stream has something to send. */
  wants(stream: Http2Stream): void
  forget(stream: Http2Stream): void
}

interface DataEntry {
  bytes: Uint8Array
  readonly done: (() => void) | undefined
}

type Entry = DataEntry | { readonly trailers: readonly Header[] } | 'end'

/** A window update is sent for so large a part of the window. */
const REPORT_SHARE = 4

export class Http2Stream {
  listener: StreamListener | undefined
  private readonly queue: Entry[] = []
  private receiveWindow: number
  private unreported = 0
  private localEnded = false
  private remoteEnded = false
  private over = false

  constructor(
    readonly id: number,
    private readonly owner: StreamOwner,
    private sendWindow: number,
  ) {
    this.receiveWindow = owner.receiveWindowBytes
  }

  sendHeaders(headers: readonly Header[]): void {
    if (!this.over) this.writeHeaders(headers, false)
  }

  /** The parts follow each other without a gap. `done`: nobody looks at them any more. */
  send(parts: readonly Uint8Array[], done: () => void): void {
    if (this.over || this.localEnded) {
      done()
      return
    }
    for (const [index, bytes] of parts.entries()) {
      this.queue.push({ bytes, done: index === parts.length - 1 ? done : undefined })
    }
    this.owner.wants(this)
  }

  /** After all that was given; nothing can be sent after it. */
  end(trailers?: readonly Header[]): void {
    if (this.over || this.localEnded) return
    this.localEnded = true
    this.queue.push(trailers === undefined ? 'end' : { trailers })
    this.owner.wants(this)
  }

  /** Ends the stream at once. */
  reset(code: number): void {
    if (this.over) return
    this.owner.write(numberFrame(FRAME.reset, this.id, code))
    this.finish()
  }

  /** So many bytes of what came need no room any more. */
  consumed(bytes: number): void {
    if (this.over || this.remoteEnded) return
    this.unreported += bytes
    if (this.unreported < this.owner.receiveWindowBytes / REPORT_SHARE) return
    this.receiveWindow += this.unreported
    this.owner.write(numberFrame(FRAME.windowUpdate, this.id, this.unreported))
    this.unreported = 0
  }

  /** Sends one frame of what waits; false where nothing can be sent now. */
  sendNext(): boolean {
    const [next] = this.queue
    if (next === undefined || this.over) return false
    if (next === 'end' || 'trailers' in next) {
      this.queue.shift()
      if (next === 'end') this.owner.write(frameHead(0, FRAME.data, FLAG.endStream, this.id))
      else this.writeHeaders(next.trailers, true)
      this.closeIfEnded()
      // A server that has answered wants no more of the request.
      if (next !== 'end') this.reset(H2.none)
      return false
    }
    return this.sendData()
  }

  opensBy(bytes: number): void {
    this.sendWindow += bytes
    if (this.queue.length > 0) this.owner.wants(this)
  }

  /** The peer's: its frames for this stream. */
  readonly received = {
    headers: (headers: readonly Header[], end: boolean): void => {
      this.listener?.headers(headers)
      if (end) this.remoteEnd()
    },
    data: (bytes: Buffer): void => {
      if (!this.remoteEnded) this.listener?.data(bytes)
    },
    room: (bytes: number): Buffer | undefined =>
      this.remoteEnded ? undefined : this.listener?.room?.(bytes),
    filled: (bytes: number): void => this.listener?.filled?.(bytes),
    dataEnd: (flowBytes: number, payloadBytes: number, end: boolean): void => {
      this.receiveWindow -= flowBytes
      if (this.receiveWindow < 0) {
        throw new Http2Error(H2.flowControl, `Stream ${this.id} has more bytes than its window.`)
      }
      // Padding is nobody's to consume.
      this.consumed(flowBytes - payloadBytes)
      if (end) this.remoteEnd()
    },
    reset: (code: number): void => this.close({ code }),
    lost: (lost: Error): void => this.close({ lost }),
  }

  private sendData(): boolean {
    const { owner } = this
    const room = Math.min(owner.frameBytesMax, owner.sendWindow, this.sendWindow)
    const parts: DataEntry[] = []
    let bytes = 0
    for (let next = this.queue[0]; typeof next === 'object' && 'bytes' in next; next = this.queue[0]) {
      const left = room - bytes
      if (left <= 0) break
      if (next.bytes.length > left) {
        parts.push({ bytes: next.bytes.subarray(0, left), done: undefined })
        next.bytes = next.bytes.subarray(left)
        bytes = room
        break
      }
      parts.push(next)
      bytes += next.bytes.length
      this.queue.shift()
    }
    if (parts.length === 0) return false
    owner.sendWindow -= bytes
    this.sendWindow -= bytes
    owner.write(frameHead(bytes, FRAME.data, 0, this.id))
    for (const part of parts) owner.write(part.bytes, part.done)
    return this.queue.length > 0
  }

  private writeHeaders(headers: readonly Header[], end: boolean): void {
    const block = encodeHeaders(headers)
    const { frameBytesMax } = this.owner
    for (let at = 0; at === 0 || at < block.length; at += frameBytesMax) {
      const part = block.subarray(at, at + frameBytesMax)
      const flags =
        (end && at === 0 ? FLAG.endStream : 0) | (at + part.length === block.length ? FLAG.endHeaders : 0)
      this.owner.write(frame(at === 0 ? FRAME.headers : FRAME.continuation, flags, this.id, part))
    }
  }

  private remoteEnd(): void {
    if (this.over || this.remoteEnded) return
    this.remoteEnded = true
    this.listener?.ended()
    this.closeIfEnded()
  }

  private closeIfEnded(): void {
    if (this.localEnded && this.queue.length === 0 && this.remoteEnded) this.finish()
  }

  private close(reason: Parameters<StreamListener['lost']>[0]): void {
    if (this.over) return
    this.finish()
    this.listener?.lost(reason)
  }

  private finish(): void {
    this.over = true
    this.owner.forget(this)
    for (const entry of this.queue.splice(0)) {
      if (typeof entry === 'object' && 'bytes' in entry) entry.done?.()
    }
  }
}
