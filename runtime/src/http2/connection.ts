/**
 * One HTTP/2 connection over a socket (RFC 9113), either end: what gRPC needs of it, made for messages of a
 * megabyte. Node's own http2 sends 16 KB frames and reads 64 KB at a time into fresh memory, which costs several
 * times what the sockets do.
 *
 * Invariants:
 * H1 The peer never has more under way on a stream than its window; the window of the connection opens with
 *    what arrives, so that a stream that nobody reads holds up no other.
 * H2 Not more than SOCKET_BYTES_MAX wait in the socket, so streams take turns and control frames come through.
 * H3 A peer that breaks the protocol, or is silent for too long, loses the connection; every stream hears of it.
 */
import type { Socket } from 'node:net'
import {
  DEFAULT_FRAME_BYTES,
  DEFAULT_WINDOW_BYTES,
  FLAG,
  FRAME,
  type FrameHandler,
  type FrameHead,
  FrameReader,
  frame,
  numberFrame,
  PREFACE,
  SETTING,
  settingsFrame,
  WINDOW_BYTES_MAX,
  withoutPadding,
} from './frames.js'
import { HeaderDecoder } from './hpack.js'
import type { Header } from './hpack-tables.js'
import { H2, Http2Error } from './http2-error.js'
import { Keepalive } from './keepalive.js'
import { Http2Stream, type StreamOwner } from './stream.js'

export interface ConnectionOptions {
  readonly role: 'client' | 'server'
  /** Of each stream, for what the peer sends. */
  readonly windowBytes: number
  readonly streamsMax: number
  /** A ping is sent so often, and waited for so long; a client sends none while it has no streams. */
  readonly pingMs: number
  readonly pongMs: number
}

export interface ConnectionEvents {
  /** The peer has spoken. */
  ready?(): void
  /** The peer begins a stream; its listener must be set before this returns. */
  stream?(stream: Http2Stream, headers: readonly Header[]): void
  /** It takes no new streams: it has been closed, or the peer is about to close it. */
  leaving(): void
  closed(error: Error): void
}

/** Largest DATA frame that we take: a message of bulk data in one. */
const FRAME_BYTES_MAX = 4 << 20
const SOCKET_BYTES_MAX = 2 << 20
const HEADERS_BYTES_MAX = 64 << 10
const GOODBYE_MS = 500

export class Http2Connection implements StreamOwner, FrameHandler {
  frameBytesMax = DEFAULT_FRAME_BYTES
  sendWindow = DEFAULT_WINDOW_BYTES
  readonly receiveWindowBytes: number
  private readonly streams = new Map<number, Http2Stream>()
  /** Streams that have something to send, in turns. */
  private readonly sending = new Set<Http2Stream>()
  private readonly reader: FrameReader
  private readonly decoder = new HeaderDecoder()
  private readonly keepalive: Keepalive
  private initialWindow = DEFAULT_WINDOW_BYTES
  private peerStreamsMax = Number.POSITIVE_INFINITY
  private received = 0
  /** Of the data of the current frame. */
  private payloadBytes = 0
  private lastStream: number
  private lastPeerStream = 0
  private heard = false
  private isLeaving = false
  private flushing = false
  private over = false
  /** A header block that is not yet whole. */
  private block:
    | { readonly stream: number; readonly flags: number; parts: Buffer[]; bytes: number }
    | undefined

  constructor(
    private readonly socket: Socket,
    private readonly options: ConnectionOptions,
    private readonly events: ConnectionEvents,
  ) {
    const { role, windowBytes, streamsMax, pingMs, pongMs } = options
    this.receiveWindowBytes = windowBytes
    this.lastStream = role === 'client' ? -1 : 0
    this.reader = new FrameReader(this, FRAME_BYTES_MAX, role === 'server')
    this.keepalive = new Keepalive({
      pingMs,
      pongMs,
      needed: () => role === 'server' || this.streams.size > 0,
      ping: () => this.write(frame(FRAME.ping, 0, 0, Buffer.alloc(8))),
      lost: () => this.destroy(new Error('the peer no longer answers')),
    })
    socket.setNoDelay(true)
    socket.on('error', (error) => this.destroy(error))
    socket.on('close', () => this.destroy(new Error('the connection was closed')))
    socket.on('end', () => this.destroy(new Error('the peer closed the connection')))
    socket.on('drain', () => this.flush())
    socket.cork()
    if (role === 'client') this.write(PREFACE)
    const common = [
      [SETTING.initialWindow, windowBytes],
      [SETTING.frameBytesMax, FRAME_BYTES_MAX],
      [SETTING.headersBytesMax, HEADERS_BYTES_MAX],
    ] as const
    this.write(
      settingsFrame([
        ...common,
        role === 'client' ? [SETTING.enablePush, 0] : [SETTING.streamsMax, streamsMax],
      ]),
    )
    this.write(numberFrame(FRAME.windowUpdate, 0, WINDOW_BYTES_MAX - DEFAULT_WINDOW_BYTES))
    socket.uncork()
  }

  /** Whether a stream can be opened now. */
  get open(): boolean {
    return !this.isLeaving && !this.over && this.streams.size < this.peerStreamsMax
  }

  get streamCount(): number {
    return this.streams.size
  }

  /** A client's. */
  request(headers: readonly Header[]): Http2Stream {
    this.lastStream += 2
    const stream = this.addStream(this.lastStream)
    stream.sendHeaders(headers)
    return stream
  }

  /** What came from the socket; good until this returns. */
  feed(bytes: Buffer): void {
    this.guarded(() => this.reader.feed(bytes))
  }

  /** Where the next bytes from the socket should go; undefined where `feed` is to have them. */
  room(): Buffer | undefined {
    const { underWay } = this.reader
    if (underWay === undefined || this.over) return undefined
    return this.streams.get(underWay.stream)?.received.room(underWay.bytes)
  }

  /** So many bytes have come and are in the room. */
  filled(bytes: number): void {
    const stream = this.streams.get(this.reader.underWay?.stream ?? 0)
    this.guarded(() => {
      this.payloadBytes += bytes
      stream?.received.filled(bytes)
      this.reader.skip(bytes)
    })
  }

  /** Takes no new streams; ends when the last one has. */
  leave(): void {
    if (this.isLeaving || this.over) return
    if (this.options.role === 'server') this.sayGoodbye(H2.none)
    this.becomeLeaving()
    this.endIfIdle()
  }

  /** Ends everything at once. */
  destroy(error: Error): void {
    if (this.over) return
    this.over = true
    this.keepalive.stop()
    for (const stream of [...this.streams.values()]) stream.received.lost(error)
    // What was said last still goes out, where the peer takes it.
    this.socket.destroySoon()
    setTimeout(() => this.socket.destroy(), GOODBYE_MS).unref()
    this.events.closed(error)
  }

  // What streams ask for.

  write(bytes: Uint8Array, done?: () => void): void {
    if (this.socket.destroyed || this.socket.writableEnded) done?.()
    else if (done === undefined) this.socket.write(bytes)
    else {
      this.socket.write(bytes, () => {
        done()
        this.flush()
      })
    }
  }

  wants(stream: Http2Stream): void {
    this.sending.add(stream)
    this.flush()
  }

  forget(stream: Http2Stream): void {
    this.streams.delete(stream.id)
    this.sending.delete(stream)
    if (this.streams.size === 0 && this.options.role === 'client') this.socket.unref()
    this.endIfIdle()
  }

  // What the peer sends.

  data(id: number, bytes: Buffer): void {
    this.payloadBytes += bytes.length
    this.streams.get(id)?.received.data(bytes)
  }

  dataEnd({ stream: id, length, flags }: FrameHead): void {
    const { payloadBytes } = this
    this.payloadBytes = 0
    if (id === 0 || this.isIdle(id)) throw new Http2Error(H2.protocol, 'DATA belongs to no stream.')
    this.received += length
    // Most of the largest window there is: whoever has used so little of it waits for nothing.
    if (this.received >= 1 << 28) {
      this.write(numberFrame(FRAME.windowUpdate, 0, this.received))
      this.received = 0
    }
    this.streams.get(id)?.received.dataEnd(length, payloadBytes, (flags & FLAG.endStream) !== 0)
  }

  frame(head: FrameHead, payload: Buffer): void {
    const { type, flags, stream: id } = head
    if (this.block !== undefined && (type !== FRAME.continuation || id !== this.block.stream)) {
      throw new Http2Error(H2.protocol, 'A header block was interrupted.')
    }
    switch (type) {
      case FRAME.headers:
        this.beginBlock(head, flags & FLAG.padded ? withoutPadding(payload) : payload)
        return
      case FRAME.continuation:
        this.continueBlock(payload, flags)
        return
      case FRAME.settings:
        if ((flags & FLAG.ack) === 0) this.takeSettings(payload)
        return
      case FRAME.ping:
        if (payload.length !== 8) throw new Http2Error(H2.frameSize, 'A ping has 8 bytes.')
        if ((flags & FLAG.ack) === 0) this.write(frame(FRAME.ping, FLAG.ack, 0, payload))
        return
      case FRAME.windowUpdate:
        this.takeWindow(id, numberOf(payload) & 0x7fffffff)
        return
      case FRAME.reset:
        this.streams.get(id)?.received.reset(numberOf(payload))
        return
      case FRAME.goaway:
        this.takeGoodbye(payload)
        return
      case FRAME.pushPromise:
        throw new Http2Error(H2.protocol, 'Nothing may be pushed.')
      default:
      // Priorities, and what later standards add, change nothing here.
    }
  }

  /** Reads what has come; a peer that breaks the protocol loses the connection. */
  private guarded(read: () => void): void {
    if (this.over) return
    this.keepalive.heard()
    try {
      read()
    } catch (thrown) {
      const error = thrown instanceof Http2Error ? thrown : new Http2Error(H2.internal, String(thrown))
      this.sayGoodbye(error.code)
      this.destroy(error)
    }
  }

  private addStream(id: number): Http2Stream {
    const stream = new Http2Stream(id, this, this.initialWindow)
    this.streams.set(id, stream)
    if (this.options.role === 'client') this.socket.ref()
    return stream
  }

  private beginBlock({ stream, flags }: FrameHead, payload: Buffer): void {
    const fragment = flags & FLAG.priority ? payload.subarray(5) : payload
    this.block = { stream, flags, parts: [], bytes: 0 }
    this.continueBlock(fragment, flags)
  }

  private continueBlock(fragment: Buffer, flags: number): void {
    const { block } = this
    if (block === undefined) throw new Http2Error(H2.protocol, 'A header block has no beginning.')
    block.parts.push(fragment)
    block.bytes += fragment.length
    if (block.bytes > HEADERS_BYTES_MAX) throw new Http2Error(H2.calm, 'The headers are too large.')
    if ((flags & FLAG.endHeaders) === 0) return
    this.block = undefined
    const headers = this.decoder.decode(Buffer.concat(block.parts))
    this.takeHeaders(block.stream, headers, (block.flags & FLAG.endStream) !== 0)
  }

  private takeHeaders(id: number, headers: readonly Header[], end: boolean): void {
    const known = this.streams.get(id)
    if (known !== undefined) {
      known.received.headers(headers, end)
      return
    }
    // Of a stream that has ended.
    if (!this.isIdle(id)) return
    if (this.options.role === 'client' || id % 2 === 0) {
      throw new Http2Error(H2.protocol, 'Headers belong to no stream.')
    }
    this.lastPeerStream = id
    const refused = this.isLeaving || this.streams.size >= this.options.streamsMax
    if (refused) {
      this.write(numberFrame(FRAME.reset, id, H2.refused))
      return
    }
    const stream = this.addStream(id)
    this.events.stream?.(stream, headers)
    if (end) stream.received.dataEnd(0, 0, true)
  }

  /** Whether nobody has begun it. */
  private isIdle(id: number): boolean {
    const ours = (id % 2 === 1) === (this.options.role === 'client')
    return id > (ours ? this.lastStream : this.lastPeerStream)
  }

  private takeSettings(payload: Buffer): void {
    for (let at = 0; at + 6 <= payload.length; at += 6) {
      this.takeSetting(payload.readUInt16BE(at), payload.readUInt32BE(at + 2))
    }
    this.write(frame(FRAME.settings, FLAG.ack, 0, Buffer.alloc(0)))
    if (!this.heard) this.events.ready?.()
    this.heard = true
    this.flush()
  }

  private takeSetting(id: number, value: number): void {
    if (id === SETTING.initialWindow) {
      if (value > WINDOW_BYTES_MAX) throw new Http2Error(H2.flowControl, 'A window is too large.')
      const change = value - this.initialWindow
      this.initialWindow = value
      for (const stream of this.streams.values()) stream.opensBy(change)
    } else if (id === SETTING.frameBytesMax) {
      if (value < DEFAULT_FRAME_BYTES) throw new Http2Error(H2.protocol, 'Frames cannot be so small.')
      this.frameBytesMax = Math.min(value, FRAME_BYTES_MAX)
    } else if (id === SETTING.streamsMax) this.peerStreamsMax = value
  }

  private takeWindow(id: number, bytes: number): void {
    if (bytes === 0) throw new Http2Error(H2.protocol, 'A window opens by nothing.')
    if (id !== 0) {
      this.streams.get(id)?.opensBy(bytes)
      return
    }
    this.sendWindow += bytes
    if (this.sendWindow > WINDOW_BYTES_MAX) throw new Http2Error(H2.flowControl, 'A window is too large.')
    for (const stream of this.streams.values()) stream.opensBy(0)
  }

  private takeGoodbye(payload: Buffer): void {
    if (payload.length < 8) throw new Http2Error(H2.frameSize, 'A goodbye is cut off.')
    const last = payload.readUInt32BE(0) & 0x7fffffff
    this.becomeLeaving()
    for (const stream of [...this.streams.values()]) {
      if (this.options.role === 'client' && stream.id > last) stream.received.reset(H2.refused)
    }
    this.endIfIdle()
  }

  private flush(): void {
    // Entered again from the callbacks of what it writes.
    if (this.flushing || this.over) return
    this.flushing = true
    this.socket.cork()
    while (this.socket.writableLength < SOCKET_BYTES_MAX) {
      const [stream] = this.sending
      if (stream === undefined) break
      this.sending.delete(stream)
      if (stream.sendNext()) this.sending.add(stream)
    }
    this.socket.uncork()
    this.flushing = false
  }

  private sayGoodbye(code: number): void {
    const payload = Buffer.alloc(8)
    payload.writeUInt32BE(this.lastPeerStream, 0)
    payload.writeUInt32BE(code, 4)
    this.write(frame(FRAME.goaway, 0, 0, payload))
  }

  private becomeLeaving(): void {
    if (this.isLeaving) return
    this.isLeaving = true
    this.events.leaving()
  }

  private endIfIdle(): void {
    if (this.isLeaving && this.streams.size === 0) this.destroy(new Error('the connection has ended'))
  }
}

function numberOf(payload: Buffer): number {
  if (payload.length !== 4) throw new Http2Error(H2.frameSize, 'A frame has the wrong size.')
  return payload.readUInt32BE(0)
}
