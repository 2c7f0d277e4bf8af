/**
 * Frames of HTTP/2 (RFC 9113, sections 4 and 6), as bytes.
 *
 * Invariant: what a frame costs to read does not depend on its size but for DATA, which is handed on piece by
 * piece as it arrives and is never kept here.
 */
import { H2, Http2Error } from './http2-error.js'

export const FRAME = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const

export const FLAG = { endStream: 1, ack: 1, endHeaders: 4, padded: 8, priority: 0x20 } as const

export const SETTING = {
  enablePush: 2,
  streamsMax: 3,
  initialWindow: 4,
  frameBytesMax: 5,
  headersBytesMax: 6,
} as const

/** What a client's connection begins with. */
export const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
/** Before a peer has said anything. */
export const DEFAULT_WINDOW_BYTES = 65_535
export const DEFAULT_FRAME_BYTES = 16_384
export const WINDOW_BYTES_MAX = 2 ** 31 - 1

const HEAD_BYTES = 9
/** Of a frame that is no data: it is kept until it is whole. */
const CONTROL_BYTES_MAX = 64 << 10

export interface FrameHead {
  readonly length: number
  readonly type: number
  readonly flags: number
  readonly stream: number
}

export interface FrameHandler {
  /** A whole frame that is no data. Its payload is good until this returns. */
  frame(head: FrameHead, payload: Buffer): void
  /** A part of a DATA frame, good until this returns. */
  data(stream: number, bytes: Buffer): void
  /** A DATA frame is over. */
  dataEnd(head: FrameHead): void
}

export function frame(type: number, flags: number, stream: number, payload: Uint8Array): Buffer {
  return Buffer.concat([frameHead(payload.length, type, flags, stream), payload])
}

export function frameHead(length: number, type: number, flags: number, stream: number): Buffer {
  const head = Buffer.allocUnsafe(HEAD_BYTES)
  head.writeUIntBE(length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return head
}

export function settingsFrame(settings: readonly (readonly [id: number, value: number])[]): Buffer {
  const payload = Buffer.alloc(settings.length * 6)
  for (const [index, [id, value]] of settings.entries()) {
    payload.writeUInt16BE(id, index * 6)
    payload.writeUInt32BE(value, index * 6 + 2)
  }
  return frame(FRAME.settings, 0, 0, payload)
}

export function numberFrame(type: number, stream: number, value: number): Buffer {
  const payload = Buffer.alloc(4)
  payload.writeUInt32BE(value)
  return frame(type, 0, stream, payload)
}

/** Cuts the bytes of a connection into frames. */
export class FrameReader {
  private readonly headBytes = Buffer.alloc(HEAD_BYTES)
  private headAt = 0
  private head: FrameHead | undefined
  private payload: Buffer | undefined
  private payloadAt = 0
  private prefaceAt: number

  /** `preface`: whether a client's preface comes first. */
  constructor(
    private readonly handler: FrameHandler,
    private readonly frameBytesMax: number,
    preface: boolean,
  ) {
    this.prefaceAt = preface ? 0 : PREFACE.length
  }

  /** Throws Http2Error where the peer breaks the protocol; nothing may be fed afterwards. */
  feed(bytes: Buffer): void {
    let at = this.skipPreface(bytes)
    while (at < bytes.length) {
      if (this.head === undefined) {
        const taken = bytes.copy(this.headBytes, this.headAt, at)
        this.headAt += taken
        at += taken
        if (this.headAt < HEAD_BYTES) return
        this.headAt = 0
        this.begin(readHead(this.headBytes))
        continue
      }
      at += this.take(this.head, bytes.subarray(at))
    }
  }

  /** Of the DATA frame that has begun: its stream, and the bytes that are still to come. */
  get underWay(): { readonly stream: number; readonly bytes: number } | undefined {
    const { head } = this
    if (head === undefined || this.payload !== undefined) return undefined
    return { stream: head.stream, bytes: head.length - this.payloadAt }
  }

  /** So many of them have come and are where they belong. */
  skip(bytes: number): void {
    const { head } = this
    if (head === undefined) throw new RangeError('No frame has begun')
    this.payloadAt += bytes
    if (this.payloadAt === head.length) this.finish(head)
  }

  private skipPreface(bytes: Buffer): number {
    const rest = PREFACE.subarray(this.prefaceAt, this.prefaceAt + bytes.length)
    if (!bytes.subarray(0, rest.length).equals(rest)) {
      throw new Http2Error(H2.protocol, 'The peer does not speak HTTP/2.')
    }
    this.prefaceAt += rest.length
    return rest.length
  }

  private begin(head: FrameHead): void {
    const streamed = head.type === FRAME.data && (head.flags & FLAG.padded) === 0
    if (head.length > (head.type === FRAME.data ? this.frameBytesMax : CONTROL_BYTES_MAX)) {
      throw new Http2Error(H2.frameSize, `A frame of ${head.length} bytes is too large.`)
    }
    this.head = head
    this.payload = streamed ? undefined : Buffer.allocUnsafe(head.length)
    this.payloadAt = 0
    if (head.length === 0) this.finish(head)
  }

  /** Returns how many bytes belonged to the frame. */
  private take(head: FrameHead, bytes: Buffer): number {
    const part = bytes.subarray(0, head.length - this.payloadAt)
    if (this.payload === undefined) this.handler.data(head.stream, part)
    else part.copy(this.payload, this.payloadAt)
    this.payloadAt += part.length
    if (this.payloadAt === head.length) this.finish(head)
    return part.length
  }

  private finish(head: FrameHead): void {
    const { payload } = this
    this.head = undefined
    if (head.type !== FRAME.data) {
      this.handler.frame(head, payload ?? Buffer.alloc(0))
      return
    }
    if (payload !== undefined) this.handler.data(head.stream, withoutPadding(payload))
    this.handler.dataEnd(head)
  }
}

/** A padded frame's payload as it would be without. */
export function withoutPadding(payload: Buffer): Buffer {
  const padding = payload[0] ?? 0
  if (padding >= payload.length) throw new Http2Error(H2.protocol, 'A frame has more padding than room.')
  return payload.subarray(1, payload.length - padding)
}

function readHead(bytes: Buffer): FrameHead {
  return {
    length: bytes.readUIntBE(0, 3),
    type: bytes[3] ?? 0,
    flags: bytes[4] ?? 0,
    stream: bytes.readUInt32BE(5) & 0x7fffffff,
  }
}
