/**
 * Turns plain async functions into gRPC handlers.
 *
 * Invariants:
 * H1 The handler runs in the caller's trace context, and its `signal` aborts when the
 *    client cancels, the deadline passes or the connection is lost.
 * H2 `send` resolves once the transport has taken the message: HTTP/2's window and the
 *    socket decide the pace. It throws when the call is over.
 * H3 Whatever a handler throws becomes a status; nothing it does ends the process.
 * H4 Reading pauses while the handler does not ask for the next message; at most
 *    16 messages are read ahead.
 */
import type {
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  Metadata,
  ServerDuplexStream,
  ServerWritableStream,
} from '@grpc/grpc-js'
import { context } from '@opentelemetry/api'
import { CancelledError, DeadlineError } from './errors.js'
import { readTraceContext } from './rpc-context.js'
import { toServiceError } from './rpc-errors.js'
import { UNARY_DEADLINE_MS } from './rpc-limits.js'
import { messagesOf, writerOf } from './rpc-streams.js'

export interface CallContext {
  /** Aborts when the client is gone or gave up; the reason is a KvasirError. Never aborts after a normal end. */
  readonly signal: AbortSignal
  /** Time that was left when the call arrived; undefined for a stream without deadline. */
  readonly deadlineMs?: number
  /** Address of the caller, such as 10.0.0.7:40312. */
  readonly peer: string
}

/** Hands one message to the transport. One at a time is enough to keep a connection busy. */
export type Send<T> = (message: T) => Promise<void>

export function unary<Request, Response>(
  handler: (request: Request, call: CallContext) => Promise<Response>,
): handleUnaryCall<Request, Response> {
  return (call, callback) => {
    const running = begin(call, UNARY_DEADLINE_MS)
    run(
      running,
      () => handler(call.request, running.context),
      (response) => callback(null, response),
      (error) => callback(toServiceError(error)),
    )
  }
}

export function serverStream<Request, Response>(
  handler: (request: Request, call: CallContext, send: Send<Response>) => Promise<void>,
): handleServerStreamingCall<Request, Response> {
  return (call) => {
    const running = begin(call, undefined)
    const send = writerOf<Response>(call, running.context.signal)
    runStream(call, running, () => handler(call.request, running.context, send))
  }
}

export function clientStream<Request, Response>(
  handler: (incoming: AsyncIterable<Request>, call: CallContext) => Promise<Response>,
): handleClientStreamingCall<Request, Response> {
  return (call, callback) => {
    const running = begin(call, undefined)
    const { signal } = running.context
    const incoming = messagesOf<Request>(call, { signal, errorOf: (error) => error })
    run(
      running,
      () => handler(incoming, running.context),
      (response) => callback(null, response),
      (error) => callback(toServiceError(error)),
    )
  }
}

export function bidi<Request, Response>(
  handler: (incoming: AsyncIterable<Request>, call: CallContext, send: Send<Response>) => Promise<void>,
): handleBidiStreamingCall<Request, Response> {
  return (call) => {
    const running = begin(call, undefined)
    const { signal } = running.context
    const send = writerOf<Response>(call, signal)
    const incoming = messagesOf<Request>(call, { signal, errorOf: (error) => error })
    runStream(call, running, () => handler(incoming, running.context, send))
  }
}

/**
 * The caller's timer began a message's way before ours, and its cancellation may so come before our deadline:
 * one that comes at most this early is taken for the deadline.
 */
const DEADLINE_SLACK_MS = 100

interface Running {
  readonly context: CallContext
  readonly metadata: Metadata
  /** From here on the signal stays quiet. */
  finish(): void
  /** Aborted by client, deadline or connection: no answer can be sent. */
  readonly aborted: () => boolean
}

interface AnyCall {
  readonly metadata: Metadata
  readonly cancelled: boolean
  getDeadline(): Date | number
  getPeer(): string
  on(event: 'cancelled', listener: () => void): unknown
}

function begin(call: AnyCall, defaultDeadlineMs: number | undefined): Running {
  const controller = new AbortController()
  const deadline = Number(call.getDeadline())
  const told = Number.isFinite(deadline) ? Math.max(0, deadline - Date.now()) : undefined
  const deadlineMs = told ?? defaultDeadlineMs
  let finished = false
  let timer: NodeJS.Timeout | undefined
  const peer = call.getPeer()

  const abort = (reason: CancelledError | DeadlineError) => {
    clearTimeout(timer)
    if (!finished && !controller.signal.aborted) controller.abort(reason)
  }
  const late = () => new DeadlineError(`The call from ${peer} ran past its deadline.`)
  // The transport watches the deadline that a caller sets; ours is for a caller that sets none.
  if (told === undefined && deadlineMs !== undefined) timer = setTimeout(() => abort(late()), deadlineMs)
  call.on('cancelled', () => {
    const expired = told !== undefined && Date.now() >= deadline - Math.min(DEADLINE_SLACK_MS, told / 2)
    abort(expired ? late() : new CancelledError(`The caller ${peer} cancelled or is gone.`))
  })

  return {
    context: { signal: controller.signal, peer, ...(deadlineMs === undefined ? {} : { deadlineMs }) },
    metadata: call.metadata,
    finish() {
      finished = true
      clearTimeout(timer)
    },
    aborted: () => controller.signal.aborted,
  }
}

/** Runs the handler in the caller's trace context; exactly one of `done` and `failed` is called. */
function run<T>(
  running: Running,
  handler: () => Promise<T>,
  done: (value: T) => void,
  failed: (error: unknown) => void,
): void {
  const { signal } = running.context
  let over = false
  const end = (answer: () => void) => {
    if (over) return
    over = true
    running.finish()
    answer()
  }
  // A handler that does not watch its signal must not hold the caller past the deadline.
  signal.addEventListener('abort', () => end(() => failed(signal.reason)), { once: true })
  context
    .with(readTraceContext(running.metadata), async () => handler())
    .then(
      (value) => end(() => done(value)),
      (error: unknown) => end(() => failed(error)),
    )
}

function runStream<Request, Response>(
  call: ServerWritableStream<Request, Response> | ServerDuplexStream<Request, Response>,
  running: Running,
  handler: () => Promise<void>,
): void {
  run(
    running,
    handler,
    () => call.end(),
    // The stream's own error listener turns this into the status.
    (error) => {
      if (!call.destroyed) call.emit('error', toServiceError(error))
    },
  )
}
