/**
 * The calling end of a KV endpoint: gRPC over a connection made for bulk data (http2/connection.ts). Any gRPC
 * server can be called so.
 *
 * A client has one connection, opened with its first call and again after it was lost. The socket reads straight into
 * the messages.
 */
import { connect } from 'node:net'
import { type CallOptions, connectivityState, type Metadata, status } from '@grpc/grpc-js'
import { type AnyMethod, BulkCall } from './bulk-call.js'
import { OverloadedError } from './errors.js'
import {
  errorOfReset,
  errorOfTrailers,
  metadataHeaders,
  metadataOf,
  statusError,
  timeoutHeader,
} from './grpc-wire.js'
import { Http2Connection } from './http2/connection.js'
import type { Header } from './http2/hpack-tables.js'
import { H2 } from './http2/http2-error.js'
import type { Http2Stream, StreamListener } from './http2/stream.js'
import { writeCallMetadata } from './rpc-context.js'
import { BULK_WINDOW_BYTES, CLIENT_KEEPALIVE_MS, CLIENT_KEEPALIVE_TIMEOUT_MS } from './rpc-limits.js'

/** Of all connections: what was read has been copied when the next one reads. Most of a message goes where it belongs. */
const readBuffer = Buffer.allocUnsafeSlow(64 << 10)

export class BulkClient {
  private connection: Http2Connection | undefined
  private state = connectivityState.IDLE
  private closed = false
  private waiting: (() => void)[] = []

  constructor(private readonly address: string) {}

  /** Streams both ways; or one request, for whoever ends the call after it. */
  protected call(method: AnyMethod, metadata: Metadata, options: Partial<CallOptions> = {}): BulkClientCall {
    if (this.closed) throw new Error('The client has been closed')
    const connection = this.connected()
    if (!connection.open) {
      const { address: peer } = this
      throw new OverloadedError(`${peer} takes no more calls at a time; try again later.`, { ids: { peer } })
    }
    const { deadline } = options
    const timeoutMs = deadline === undefined ? undefined : Number(deadline) - Date.now()
    writeCallMetadata(metadata)
    const stream = connection.request([
      [':method', 'POST'],
      [':scheme', 'http'],
      [':path', method.path],
      [':authority', this.address],
      ['te', 'trailers'],
      ['content-type', 'application/grpc'],
      ...(timeoutMs === undefined ? [] : [timeoutHeader(timeoutMs)]),
      ...metadataHeaders(metadata),
    ])
    return new BulkClientCall(stream, method, timeoutMs)
  }

  getChannel(): { getTarget(): string; getConnectivityState(tryToConnect: boolean): connectivityState } {
    return { getTarget: () => this.address, getConnectivityState: () => this.state }
  }

  /** Calls back without an error once the peer has spoken, with one at the deadline (milliseconds since 1970). */
  waitForReady(deadline: number, callback: (error?: Error) => void): void {
    const late = () => {
      this.waiting = this.waiting.filter((waiting) => waiting !== ready)
      callback(new Error('Failed to connect before the deadline'))
    }
    const timer = setTimeout(late, deadline - Date.now()).unref()
    const ready = () => {
      clearTimeout(timer)
      callback()
    }
    if (this.state === connectivityState.READY) ready()
    else this.waiting.push(ready)
  }

  /** Open calls go on; their end ends the connection. */
  close(): void {
    this.closed = true
    this.connection?.leave()
  }

  private connected(): Http2Connection {
    if (this.connection !== undefined) return this.connection
    const [, host = '', port] = /^\[?(.*?)\]?:(\d+)$/.exec(this.address) ?? []
    // The socket asks for memory before there is a connection.
    let reading: Http2Connection | undefined
    let room: Buffer | undefined
    const socket = connect({
      host,
      port: Number(port),
      onread: {
        buffer: () => {
          room = reading?.room()
          return room ?? readBuffer
        },
        callback: (bytes) => {
          if (room === undefined) reading?.feed(readBuffer.subarray(0, bytes))
          else reading?.filled(bytes)
          return true
        },
      },
    })
    const forget = () => {
      if (this.connection === connection) this.connection = undefined
      if (this.connection === undefined) this.state = connectivityState.IDLE
    }
    const connection: Http2Connection = new Http2Connection(
      socket,
      {
        role: 'client',
        windowBytes: BULK_WINDOW_BYTES,
        streamsMax: 0,
        pingMs: CLIENT_KEEPALIVE_MS,
        pongMs: CLIENT_KEEPALIVE_TIMEOUT_MS,
      },
      {
        ready: () => {
          if (this.connection !== connection) return
          this.state = connectivityState.READY
          for (const ready of this.waiting.splice(0)) ready()
        },
        leaving: forget,
        closed: forget,
      },
    )
    reading = connection
    this.connection = connection
    this.state = connectivityState.CONNECTING
    return connection
  }
}

/** What grpc-js calls a ClientDuplexStream: 'error' with a ServiceError, 'status' when it is over, `cancel`. */
export class BulkClientCall extends BulkCall implements StreamListener {
  private trailers: readonly Header[] = []
  private timer: NodeJS.Timeout | undefined
  private over = false

  constructor(stream: Http2Stream, method: AnyMethod, timeoutMs: number | undefined) {
    const codec = {
      encode: (message: never) => [method.requestSerialize(message)],
      decode: method.responseDeserialize,
    }
    super(stream, codec, BULK_WINDOW_BYTES)
    stream.listener = this
    if (timeoutMs === undefined) return
    const late = () => this.fail(statusError(status.DEADLINE_EXCEEDED, 'Deadline exceeded'))
    this.timer = setTimeout(late, Math.max(0, timeoutMs))
  }

  cancel(): void {
    this.fail(statusError(status.CANCELLED, 'Cancelled on client'))
  }

  override _final(done: () => void): void {
    this.stream.end()
    done()
  }

  headers(headers: readonly Header[]): void {
    this.trailers = headers
  }

  data(bytes: Buffer): void {
    this.feed(bytes)
  }

  ended(): void {
    const cut = this.isWhole
      ? undefined
      : statusError(status.INTERNAL, 'The connection lost a part of a message.')
    this.settle(errorOfTrailers(this.trailers) ?? cut)
    this.stream.reset(H2.cancel)
  }

  lost(reason: { readonly code: number } | { readonly lost: Error }): void {
    if ('code' in reason) this.settle(errorOfReset(reason.code))
    else this.settle(statusError(status.UNAVAILABLE, `Connection dropped: ${reason.lost.message}`))
  }

  protected broken(error: unknown): void {
    const known = error instanceof Error && 'code' in error && 'details' in error
    this.fail(
      known ? error : statusError(status.INTERNAL, `Response message parsing error: ${String(error)}`),
    )
  }

  private fail(error: Error): void {
    if (this.over) return
    this.dropArrived()
    this.stream.reset(H2.cancel)
    this.settle(error)
  }

  private settle(error: Error | undefined): void {
    if (this.over) return
    this.over = true
    clearTimeout(this.timer)
    this.afterLast(() => {
      this.push(null)
      if (error !== undefined) this.emit('error', error)
      this.emit('status', error ?? { code: status.OK, details: '', metadata: metadataOf(this.trailers) })
    })
  }
}
