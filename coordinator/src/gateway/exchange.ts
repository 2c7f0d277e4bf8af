/**
 * One completion request or search, from its arrival to the end of its response: its root span, its
 * times, and why it was stopped, if it was.
 *
 * Invariants:
 * X1 `end` takes effect once, when the response has ended or the connection is gone; the
 *    span covers exactly that time.
 * X2 The first reason to stop counts; whoever does the work is told at once.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { Clock } from '@kvasir/runtime/clock'
import { CancelledError } from '@kvasir/runtime/errors'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, GEN_AI, SPAN } from '@kvasir/runtime/telemetry-names'
import { type Context, propagation, ROOT_CONTEXT, type Span, SpanKind, trace } from '@opentelemetry/api'
import type { RequestReport } from '../generation.js'
import type { AnswerEnd } from './answer.js'
import type { ApiError } from './api-error.js'
import type { GenerationPlan } from './generation-plan.js'
import type { EndedRequest, Outcome } from './metrics.js'
import { SERVER_ATTRIBUTE } from './server-attributes.js'

/** The last two generate nothing: a search, and an upload of documents. */
export type Operation = 'chat' | 'text_completion' | 'retrieval' | 'upload'
export type StopCause = 'client-gone' | 'slow-client' | 'shutdown'

export interface ExchangeOptions {
  readonly requestId: string
  readonly operation: Operation
  readonly route: string
  readonly headers: IncomingHttpHeaders
  readonly clock: Clock
}

export class Exchange {
  readonly requestId: string
  /** Empty where no telemetry runs. */
  readonly traceId: string
  /** In which everything done for the request runs. */
  readonly context: Context
  stopped: StopCause | undefined

  private readonly span: Span
  private readonly startedMs: number
  private readonly stopListeners: ((cause: StopCause) => void)[] = []
  private firstTokenMs: number | undefined
  private lastTokenMs: number | undefined
  private model = ''
  private promptTokens = 0
  private completionTokens = 0
  private cachedTokens = 0
  private kvBytes = 0
  private priority = 0
  private queueMs: number | undefined
  private finished = false
  private error: ApiError | undefined
  private ended = false

  constructor(private readonly options: ExchangeOptions) {
    this.requestId = options.requestId
    this.startedMs = options.clock.nowMs()
    const parent = propagation.extract(ROOT_CONTEXT, options.headers)
    this.span = startSpan(
      SPAN.request,
      {
        [ATTRIBUTE.requestId]: options.requestId,
        [GEN_AI.operationName]: options.operation,
        [GEN_AI.providerName]: 'kvasir',
        [SERVER_ATTRIBUTE.httpMethod]: 'POST',
        [SERVER_ATTRIBUTE.httpRoute]: options.route,
      },
      parent,
      { kind: SpanKind.SERVER },
    )
    this.context = trace.setSpan(parent, this.span)
    const { traceId } = this.span.spanContext()
    this.traceId = this.span.isRecording() ? traceId : ''
  }

  planned(plan: GenerationPlan): void {
    this.model = plan.model
    this.priority = plan.priority
    this.span.setAttributes({
      [GEN_AI.requestModel]: plan.model,
      [GEN_AI.requestTemperature]: plan.temperature,
      [GEN_AI.requestTopP]: plan.topP,
      [GEN_AI.requestStream]: plan.stream,
    })
    if (plan.maxTokens !== undefined) this.span.setAttribute(GEN_AI.requestMaxTokens, plan.maxTokens)
    if (plan.seed !== undefined) this.span.setAttribute(GEN_AI.requestSeed, plan.seed)
  }

  prepared(promptTokens: number): void {
    this.promptTokens = promptTokens
  }

  /** Tokens arrived from the serving side; `completionTokens` in all. */
  tokensArrived(completionTokens: number): void {
    this.lastTokenMs = this.options.clock.nowMs()
    this.firstTokenMs ??= this.lastTokenMs
    this.completionTokens = completionTokens
  }

  /** The answer is whole. `report` is the serving side's, where it still knows the request. */
  completed(id: string, end: AnswerEnd, report: RequestReport | undefined): void {
    this.finished = true
    this.cachedTokens = end.usage.prompt_tokens_details.cached_tokens
    this.kvBytes = report?.kv.bytes ?? 0
    this.queueMs = report?.measured.queueMs ?? undefined
    this.span.setAttributes({
      [GEN_AI.responseId]: id,
      [GEN_AI.responseModel]: this.model,
      [GEN_AI.responseFinishReasons]: [end.reason],
      [GEN_AI.usageCacheReadInputTokens]: this.cachedTokens,
      [ATTRIBUTE.numericsChanged]: end.extension.numerics_changed,
      [ATTRIBUTE.nearTies]: report?.nearTies ?? 0,
    })
  }

  /** What is no completion has been answered. */
  succeeded(): void {
    this.finished = true
  }

  /** The request is answered with this error. A client's own mistake is no error of the span. */
  fail(error: ApiError): void {
    this.error = error
    this.span.setAttribute(SERVER_ATTRIBUTE.errorType, error.code)
    if (error.status >= 500) recordError(this.span, error.cause ?? error)
  }

  /** Tells whoever works on the request to stop. */
  stop(cause: StopCause): void {
    if (this.stopped !== undefined || this.ended) return
    this.stopped = cause
    for (const listener of this.stopListeners) listener(cause)
  }

  /** `listener` is called once; at once where the exchange is stopped already. */
  onStop(listener: (cause: StopCause) => void): void {
    if (this.stopped === undefined) this.stopListeners.push(listener)
    else listener(this.stopped)
  }

  /** Aborts when the exchange is stopped. */
  stopSignal(): AbortSignal {
    const controller = new AbortController()
    const why = { 'client-gone': 'the client is gone', 'slow-client': 'the client is too slow' }
    this.onStop((cause) => {
      const reason = cause === 'shutdown' ? 'this server is shutting down; try again' : why[cause]
      controller.abort(new CancelledError(`The request was stopped: ${reason}.`))
    })
    return controller.signal
  }

  /** The response has ended. Undefined on every call after the first. */
  end(status: number): EndedRequest | undefined {
    if (this.ended) return undefined
    this.ended = true
    const { ttftMs, tpotMs } = this.times()
    this.span.setAttribute(SERVER_ATTRIBUTE.httpStatus, status)
    if (this.model !== '') {
      this.span.setAttributes({
        [GEN_AI.usageInputTokens]: this.promptTokens,
        [GEN_AI.usageOutputTokens]: this.completionTokens,
      })
    }
    if (ttftMs !== undefined) this.span.setAttribute(SERVER_ATTRIBUTE.ttftMs, ttftMs)
    if (tpotMs !== undefined) this.span.setAttribute(SERVER_ATTRIBUTE.tpotMs, tpotMs)
    if (this.stopped !== undefined && !this.finished) {
      this.span.setAttribute(SERVER_ATTRIBUTE.errorType, this.stopped)
    }
    this.span.end()
    return {
      operation: this.options.operation,
      model: this.model,
      outcome: this.outcome(),
      durationMs: this.options.clock.nowMs() - this.startedMs,
      ttftMs,
      tpotMs,
      promptTokens: this.promptTokens,
      cachedTokens: this.cachedTokens,
      completionTokens: this.completionTokens,
      kvBytes: this.kvBytes,
      priority: this.priority,
      queueMs: this.queueMs,
      shed: this.error?.shed,
    }
  }

  private times(): { ttftMs: number | undefined; tpotMs: number | undefined } {
    if (this.firstTokenMs === undefined || this.lastTokenMs === undefined) {
      return { ttftMs: undefined, tpotMs: undefined }
    }
    const gaps = this.completionTokens - 1
    return {
      ttftMs: this.firstTokenMs - this.startedMs,
      tpotMs: gaps > 0 ? (this.lastTokenMs - this.firstTokenMs) / gaps : undefined,
    }
  }

  private outcome(): Outcome {
    if (this.finished) return 'finished'
    if (this.error?.shed !== undefined) return 'shed'
    if (this.error !== undefined) return this.error.status < 500 ? 'refused' : 'failed'
    if (this.stopped === 'slow-client') return 'slow_client'
    return this.stopped === 'client-gone' ? 'client_gone' : 'failed'
  }
}
