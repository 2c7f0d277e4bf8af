/**
 * One request on the serving side: carries out what the core decides for it, hands its
 * tokens to the gateway, and keeps what its report shows.
 *
 * S1. `events` gives each token once and in order, then `finished`, or throws.
 * S2. A reader that leaves early cancels the request.
 * S3. Memory is bounded by prompt and max tokens; after the end only the report stays.
 */
import type { Clock } from '@kvasir/runtime/clock'
import { CancelledError, type KvasirError, UnavailableError } from '@kvasir/runtime/errors'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { type Context, context, type Span, trace } from '@opentelemetry/api'
import { pagesOf } from '../core/attention-plan.js'
import type { CompletionRecord } from '../core/completion-record.js'
import { type Decision, explain } from '../core/decision.js'
import type { DeviceRef } from '../core/facts.js'
import type { CoordinatorAction, RequestEvent } from '../core/protocol.js'
import type {
  Generation,
  GenerationEvent,
  GenerationRequest,
  PaceReport,
  RequestReport,
} from '../generation.js'
import { attentionCompletion, tokensRead } from './attention-calls.js'
import type { DeviceClients } from './device-clients.js'
import { EpochCalls } from './epoch-calls.js'
import type { MissedBlocks } from './prefix-calls.js'
import { RequestRecord } from './request-record.js'
import { TokenBuffer } from './token-buffer.js'

export interface SessionSetting {
  readonly request: GenerationRequest
  readonly clients: DeviceClients
  readonly clock: Clock
  readonly tell: (event: RequestEvent) => void
  readonly onMissed: (missed: MissedBlocks) => void
  /** What the device keeps pace with; undefined where its times are its own. */
  readonly paceOf: (device: DeviceRef) => PaceReport | undefined
  /** Asks the core to cancel. */
  readonly onCancel: () => void
  /** Called once, when the request has ended and its report is complete. */
  readonly onEnd: (session: RequestSession, completion: CompletionRecord | undefined) => void
}

type End = { readonly reason: 'stop' | 'length' } | { readonly error: KvasirError } | { readonly left: true }
type CancelCause = Parameters<Generation['cancel']>[0]

const CANCEL_TEXT: Record<Exclude<CancelCause, 'stop-string'>, string> = {
  'client-gone': 'The client went away.',
  'slow-client': 'The client read too slowly.',
}

export class RequestSession implements Generation {
  readonly #setting: SessionSetting
  readonly #parent: Context
  readonly #tokens: TokenBuffer
  readonly #record: RequestRecord
  #epoch: EpochCalls | undefined
  #placeSpan: Span | undefined
  #lastError: KvasirError | undefined
  #cancelCause: CancelCause | undefined
  #shutdown: KvasirError | undefined
  #end: End | undefined
  #wakeReader: (() => void) | undefined

  constructor(setting: SessionSetting) {
    this.#setting = setting
    this.#parent = context.active()
    this.#tokens = new TokenBuffer(setting.request.maxTokens)
    const traceId = trace.getSpanContext(this.#parent)?.traceId ?? ''
    this.#record = new RequestRecord(setting.request, traceId, setting.clock.nowMs())
    this.#startPlacing()
  }

  get requestId(): string {
    return this.#setting.request.requestId
  }

  get tenantSalt(): Uint8Array {
    return this.#setting.request.tenantSalt
  }

  /** Why the request failed, once it has. */
  get failure(): KvasirError | undefined {
    return this.#end && 'error' in this.#end ? this.#end.error : undefined
  }

  report(): RequestReport {
    return this.#record.report(this.#tokens.released, this.#tokens.nearTies, this.#epoch?.figures)
  }

  get events(): AsyncIterable<GenerationEvent> {
    return { [Symbol.asyncIterator]: () => this.#read() }
  }

  cancel(cause: CancelCause): void {
    if (this.#end || this.#cancelCause) return
    this.#cancelCause = cause
    this.#setting.onCancel()
  }

  /** Stops the work because this process ends; the reader gets `error`. */
  shutDown(error: KvasirError): void {
    this.#shutdown = error
    this.#setting.onCancel()
  }

  /** Carries out one of the core's actions for this request. */
  act(action: CoordinatorAction): void {
    switch (action.type) {
      case 'reserve':
        this.#reserve(action)
        break
      case 'run':
        this.#record.state = action.prefill ? 'prefill' : 'decode'
        this.#epoch?.run(action, this.#setting.request.promptTokens, this.#tokens.ids())
        break
      case 'emit':
        this.#record.emitted(this.#setting.clock.nowMs())
        this.#tokens.release(action.from, action.count)
        this.#wake()
        break
      case 'abandon':
        this.#dropEpoch(this.#whyAbandoned(action.cause))
        break
      case 'requeue':
        this.#record.state = 'queued'
        trace.getSpan(this.#parent)?.addEvent('placed again', { [ATTRIBUTE.placementReason]: action.cause })
        this.#startPlacing()
        break
      case 'finish':
        void this.#finish(action.reason)
        break
      case 'cancelled':
        this.#cancelled()
    }
  }

  /** The request failed: the reader gets the error, or the device's own one where it rejected the request. */
  fail(error: KvasirError, isRejected: boolean): void {
    const shown = isRejected ? (this.#lastError ?? error) : error
    this.#record.state = 'failed'
    this.#record.error = shown.message
    this.#close({ error: shown })
  }

  #startPlacing(): void {
    this.#placeSpan ??= startSpan(SPAN.place, { [ATTRIBUTE.requestId]: this.requestId }, this.#parent)
  }

  #reserve({ decision, tokens, wait }: Extract<CoordinatorAction, { type: 'reserve' }>): void {
    const modelled = this.#modelledIn(decision)
    this.#placeSpan?.setAttributes({
      [ATTRIBUTE.epoch]: decision.epoch,
      [ATTRIBUTE.placementReason]: explain(decision),
      [ATTRIBUTE.prefillDevice]: decision.prefill.deviceId,
      [ATTRIBUTE.decodeDevice]: decision.decode.deviceId,
      [ATTRIBUTE.attentionMethod]: decision.attention.method,
      ...(decision.attention.attend ? { [ATTRIBUTE.attendDevice]: decision.attention.attend.deviceId } : {}),
      ...(modelled.length > 0 ? { [ATTRIBUTE.pace]: modelled.map(paceText) } : {}),
    })
    this.#placeSpan?.end()
    this.#placeSpan = undefined
    this.#record.placed(decision, wait, modelled, this.#setting.clock.nowMs())
    const { request, clients, tell, onMissed } = this.#setting
    this.#epoch = new EpochCalls({
      request,
      decision,
      parent: this.#parent,
      clients,
      tell: (event) => {
        if (event.type === 'decode-started') this.#record.state = 'decode'
        tell(event)
      },
      onToken: (token) => this.#tokens.arrive(token),
      onFailure: (error) => {
        this.#lastError = error
      },
      onMissed,
    })
    this.#epoch.reserve(tokens)
  }

  #modelledIn({ prefill, decode, attention }: Decision): RequestReport['modelled'] {
    const { paceOf } = this.#setting
    const devices = new Map(
      [prefill, decode, attention.attend].flatMap((ref) => (ref ? [[ref.deviceId, ref]] : [])),
    )
    return [...devices.values()].flatMap((ref) => {
      const pace = paceOf(ref)
      return pace ? [{ deviceId: ref.deviceId, ...pace }] : []
    })
  }

  /** A call that was cancelled is no failure of it, one whose placement was lost is. */
  #whyAbandoned(cause: string): KvasirError {
    if (this.#cancelCause === 'stop-string') return new CancelledError('The answer ended at a stop string.')
    if (this.#cancelCause) return new CancelledError(CANCEL_TEXT[this.#cancelCause])
    return new UnavailableError(`This placement was given up: ${cause}.`)
  }

  #dropEpoch(why: KvasirError): void {
    if (!this.#epoch) return
    this.#epoch.stop(why)
    this.#record.addFigures(this.#epoch.figures)
    this.#epoch = undefined
  }

  async #finish(reason: 'stop' | 'length'): Promise<void> {
    const epoch = this.#epoch
    // Its figures are complete a moment after the last token.
    await epoch?.finish()
    this.#record.state = 'finished'
    this.#record.finishReason = reason
    const completion = epoch && this.#completion(epoch)
    if (epoch) this.#record.addFigures(epoch.figures)
    this.#epoch = undefined
    this.#close({ reason }, completion)
  }

  #cancelled(): void {
    if (this.#shutdown) {
      this.fail(this.#shutdown, false)
      return
    }
    // A stop string is a regular end that only the gateway sees.
    if (this.#cancelCause === 'stop-string') {
      this.#record.state = 'finished'
      this.#record.finishReason = 'stop'
    } else {
      this.#record.state = 'cancelled'
      this.#record.error = CANCEL_TEXT[this.#cancelCause ?? 'client-gone']
    }
    this.#close({ left: true })
  }

  #close(end: End, completion?: CompletionRecord): void {
    if (this.#end) return
    this.#end = end
    if (this.#placeSpan) {
      if ('error' in end) recordError(this.#placeSpan, end.error)
      this.#placeSpan.end()
      this.#placeSpan = undefined
    }
    this.#wake()
    this.#setting.onEnd(this, completion)
  }

  #wake(): void {
    this.#wakeReader?.()
    this.#wakeReader = undefined
  }

  async *#read(): AsyncGenerator<GenerationEvent> {
    try {
      for (;;) {
        const end = this.#end
        if (this.#tokens.hasUnread) {
          yield { type: 'tokens', tokens: this.#tokens.take() }
        } else if (end) {
          if ('error' in end) throw end.error
          if ('reason' in end) yield { type: 'finished', reason: end.reason }
          return
        } else {
          await new Promise<void>((resolve) => {
            this.#wakeReader = resolve
          })
        }
      }
    } finally {
      this.cancel('client-gone')
    }
  }

  #completion(epoch: EpochCalls): CompletionRecord {
    const { figures, decision } = epoch
    const { prefill, decode, sent, reuse, attention } = figures
    const source = decision.prefix.fetch?.device
    const { request } = this.#setting
    // Half-way through.
    const generatedTokens = Math.ceil(this.#tokens.released / 2)
    const contextTokens = request.promptTokens.length + generatedTokens
    const stages = attention && attentionCompletion(decision, attention, pagesOf(contextTokens))
    return {
      modelDigest: request.modelDigest,
      profile: decision.profile,
      ...(prefill && prefill.shareUs > 0
        ? {
            prefill: {
              deviceId: prefill.deviceId,
              tokens: prefill.tokens,
              contextTokens: prefill.contextTokens,
              computeMs: prefill.shareUs / 1000,
            },
          }
        : {}),
      ...(decode && decode.steps > 0
        ? {
            decode: {
              deviceId: decision.decode.deviceId,
              steps: decode.steps,
              // Waiting for another device says nothing of this one.
              stepsMs: (decode.stepUs - (attention?.remoteUs ?? 0)) / 1000,
              batch: Math.max(1, decode.batchMax),
              contextTokens: tokensRead(decision, attention, contextTokens, generatedTokens),
            },
          }
        : {}),
      ...(stages ? { attention: stages } : {}),
      ...(sent
        ? {
            transfer: {
              fromDeviceId: decision.prefill.deviceId,
              toDeviceId: decision.decode.deviceId,
              bytes: sent.modelledBytes ?? sent.bytes,
              busyMs: sent.busyUs / 1000,
            },
          }
        : {}),
      ...(source && reuse && reuse.fetchedBytes > 0
        ? {
            fetch: {
              fromDeviceId: source.deviceId,
              toDeviceId: decision.prefill.deviceId,
              bytes: reuse.modelledBytes,
              fetchMs: reuse.fetchMs,
            },
          }
        : {}),
    }
  }
}

function paceText({ deviceId, device, model, preset }: RequestReport['modelled'][number]): string {
  return `${deviceId} as ${device} with ${model} (${preset})`
}
