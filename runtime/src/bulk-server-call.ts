/**
 * What grpc-js calls a server's call object, for the four shapes of calls: `request` or a stream of messages,
 * 'cancelled', and a status at the end, whose error is emitted as 'error'.
 *
 * Invariant: one status is sent, or none where the caller is gone; 'cancelled' comes at most once, and never after
 * a status that the handler gave.
 */
import {
  type handleClientStreamingCall,
  type handleServerStreamingCall,
  Metadata,
  type ServiceError,
  status,
  type UntypedHandleCall,
} from '@grpc/grpc-js'
import { type AnyMethod, BulkCall } from './bulk-call.js'
import { metadataOf, statusError, timeoutOf, trailersOf } from './grpc-wire.js'
import type { Header } from './http2/hpack-tables.js'
import type { Http2Stream, StreamListener } from './http2/stream.js'
import { toServiceError } from './rpc-errors.js'
import { BULK_WINDOW_BYTES } from './rpc-limits.js'

const RESPONSE: readonly Header[] = [
  [':status', '200'],
  ['content-type', 'application/grpc'],
]

export class BulkServerCall extends BulkCall implements StreamListener {
  readonly metadata: Metadata
  cancelled = false
  /** Of a call with a single request. */
  request: unknown
  private readonly deadlineMs: number
  private readonly timer: NodeJS.Timeout | undefined
  private start: (() => void) | undefined
  private answering = false
  private over = false

  constructor(
    stream: Http2Stream,
    headers: readonly Header[],
    private readonly peer: string,
    private readonly method: AnyMethod,
  ) {
    const { responseParts, responseSerialize, requestDeserialize } = method
    const encode = responseParts ?? ((message: never) => [responseSerialize(message)])
    super(stream, { encode, decode: requestDeserialize }, BULK_WINDOW_BYTES)
    stream.listener = this
    this.metadata = metadataOf(headers)
    const timeoutMs = timeoutOf(headers)
    this.deadlineMs = timeoutMs === undefined ? Number.POSITIVE_INFINITY : Date.now() + timeoutMs
    if (timeoutMs !== undefined) {
      const late = () => this.abandon(statusError(status.DEADLINE_EXCEEDED, 'Deadline exceeded'))
      this.timer = setTimeout(late, timeoutMs)
    }
    this.on('error', (error: ServiceError) => this.answer(error))
  }

  /** Calls the handler, at once or when the request is here. */
  run(handler: UntypedHandleCall): void {
    const { requestStream, responseStream } = this.method
    const callback = (error: unknown, value?: unknown) => {
      if (error !== null && error !== undefined) this.answer(toServiceError(error))
      else {
        this.write(value)
        this.end()
      }
    }
    // The method's definition says which shape its handler has; the types of one transport stand for both.
    const call = this as unknown
    const start = responseStream
      ? () => (handler as handleServerStreamingCall<never, never>)(call as never)
      : () => (handler as handleClientStreamingCall<never, never>)(call as never, callback)
    if (requestStream) start()
    else this.start = start
  }

  getDeadline(): number {
    return this.deadlineMs
  }

  getPeer(): string {
    return this.peer
  }

  override _write(message: never, encoding: string, done: () => void): void {
    this.beginAnswer()
    // In another turn of the loop: a peer that keeps up must not keep everybody else of this process waiting.
    super._write(message, encoding, () => setImmediate(done))
  }

  override _final(done: () => void): void {
    this.answer(undefined)
    done()
  }

  headers(): void {
    // A caller's trailers say nothing.
  }

  data(bytes: Buffer): void {
    this.feed(bytes)
  }

  ended(): void {
    if (this.method.requestStream) this.afterLast(() => this.push(null))
    else if (this.request !== undefined) this.start?.()
    else this.broken(statusError(status.INVALID_ARGUMENT, 'The call has no request.'))
  }

  lost(): void {
    this.abandon(undefined)
  }

  protected override receive(message: unknown, unread: number): void {
    if (this.method.requestStream) super.receive(message, unread)
    else this.request = message
  }

  protected broken(error: unknown): void {
    const known = error instanceof Error && 'code' in error && 'details' in error
    const sent = `Error deserializing request: ${String(error)}`
    this.abandon(known ? toServiceError(error) : statusError(status.INTERNAL, sent))
  }

  /** Ends the call from outside its handler: the caller is gone, or is told why. */
  private abandon(error: ServiceError | undefined): void {
    if (this.over) return
    this.cancelled = true
    if (error === undefined) this.finish()
    else this.answer(error)
    this.emit('cancelled')
  }

  private answer(error: ServiceError | undefined): void {
    if (this.over) return
    this.beginAnswer()
    const ok = { code: status.OK, details: '', metadata: new Metadata() }
    this.stream.end(trailersOf(error ?? ok))
    this.finish()
  }

  private beginAnswer(): void {
    if (this.answering) return
    this.answering = true
    this.stream.sendHeaders(RESPONSE)
  }

  private finish(): void {
    this.over = true
    clearTimeout(this.timer)
    // Whoever still reads or writes hears of it.
    process.nextTick(() => this.destroy())
  }
}
