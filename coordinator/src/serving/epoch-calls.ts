/**
 * The gRPC calls of one epoch of one request: Reserve, then Prefill and Decode side by
 * side. Tells the core what happens, in its terms.
 *
 * E1. After `stop` or `finish` nothing is told any more, every call ends, and what was
 *     reserved is released, also where the reservation is granted only later (I4).
 * E2. Every call has a span, a child of the request's, which ends with the call.
 */
import {
  type DecodeResponse,
  FinishReason,
  type PrefillResponse,
  type Token,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import { type Lease, LeasePurpose } from '@kvasir/proto/kvasir/kv/v1/kv'
import { delay } from '@kvasir/runtime/deferred'
import { CancelledError, InternalError, KvasirError } from '@kvasir/runtime/errors'
import { callServerStream, callUnary } from '@kvasir/runtime/rpc-client'
import { withSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN, type SpanName } from '@kvasir/runtime/telemetry-names'
import { type Context, context, type Span, SpanKind } from '@opentelemetry/api'
import { PAGE_TOKENS } from '../core/attention-plan.js'
import type { Decision } from '../core/decision.js'
import type { DeviceRef } from '../core/facts.js'
import type { CallName, CoordinatorAction, RequestEvent } from '../core/protocol.js'
import { faultOf } from './call-faults.js'
import type { DeviceClient } from './device-clients.js'
import { EpochRecorder } from './epoch-figures.js'
import { decodeRequest, type EpochSubject, prefillRequest, reserveRequest } from './epoch-requests.js'
import type { MissedBlocks } from './prefix-calls.js'

const RESERVE_TIMEOUT_MS = 2_000
const RELEASE_TIMEOUT_MS = 1_000
/** After the last token, for the other call to say how the KV transfer went. */
const SETTLE_MAX_MS = 250

export interface EpochSetting extends EpochSubject {
  /** The request's trace context. */
  readonly parent: Context
  readonly tell: (event: RequestEvent) => void
  readonly onToken: (token: Token) => void
  /** A call failed with this; told before the core is. */
  readonly onFailure: (error: KvasirError) => void
  /** A device lacked blocks that it was thought to hold. */
  readonly onMissed: (missed: MissedBlocks) => void
}

type RunAction = Extract<CoordinatorAction, { type: 'run' }>

export class EpochCalls {
  readonly figures: EpochRecorder
  readonly #setting: EpochSetting
  readonly #id: { readonly requestId: string; readonly epoch: number }
  readonly #abort = new AbortController()
  readonly #calls: Promise<void>[] = []
  /** What was granted and not released, by what for. */
  readonly #leases = new Map<LeasePurpose, Lease>()
  #isOver = false
  /** Stopping the calls is the regular end, and no failure of theirs. */
  #isFinished = false

  constructor(setting: EpochSetting) {
    this.#setting = setting
    this.figures = new EpochRecorder(setting.decision, setting.request.blockHashes)
    this.#id = { requestId: setting.request.requestId, epoch: setting.decision.epoch }
  }

  get decision(): Decision {
    return this.#setting.decision
  }

  /** Asks for memory for `tokens` where the sequence is decoded, and for its pages where another device attends. */
  reserve(tokens: number): void {
    const { decode, attention } = this.#setting.decision
    this.#calls.push(this.#reserve(decode, LeasePurpose.DECODE, tokens))
    if (!attention.attend) return
    const pageTokens = attention.attendPages * PAGE_TOKENS
    this.#calls.push(this.#reserve(attention.attend, LeasePurpose.ATTEND, pageTokens))
  }

  async #reserve(device: DeviceRef, purpose: LeasePurpose, tokens: number): Promise<void> {
    const needed = this.#setting.decision.attention.attend ? 2 : 1
    await this.#call('reserve', SPAN.reserve, device, async (client, span) => {
      span.setAttribute(ATTRIBUTE.tokens, tokens)
      // Not cancelled with the epoch: a reservation that is granted must be known to be released.
      const { lease } = await callUnary(
        client.kv,
        'reserve',
        reserveRequest(this.#setting, purpose, tokens),
        { timeoutMs: RESERVE_TIMEOUT_MS },
      )
      if (!lease) throw new InternalError(`Device ${device.deviceId} granted no lease.`)
      this.#leases.set(purpose, lease)
      if (this.#isOver) this.#release()
      else if (this.#leases.size === needed) this.#setting.tell({ type: 'reserved', ...this.#id })
    })
  }

  /** `emitted`: tokens of earlier epochs, which are prefilled behind the prompt, or decoded again. */
  run(action: RunAction, prompt: readonly number[], emitted: readonly number[]): void {
    const tokens = action.replayed > 0 ? [...prompt] : [...prompt, ...emitted]
    if (action.prefill) this.#calls.push(this.#prefill(action.prefill, action, tokens))
    this.#calls.push(this.#decode(action, tokens, emitted.slice(0, action.replayed)))
  }

  /** Ends the epoch before its time. `why` reaches the spans of what still runs. */
  stop(why: KvasirError): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#abort.abort(why)
    this.#release()
  }

  /** Ends the epoch in the regular way; resolves when its figures are complete. */
  async finish(): Promise<void> {
    if (this.#isOver) return
    this.#isOver = true
    this.#isFinished = true
    // Where decoding ended by itself the calls do too; else nothing of them is needed any more.
    const isDecoded = this.figures.decode !== null
    if (isDecoded) await Promise.race([this.#settled(), delay(SETTLE_MAX_MS, this.#abort.signal)])
    this.#abort.abort(new CancelledError('The request is finished.'))
    // The decode call ends its lease; the pages' is better ended twice than kept for its TTL.
    if (isDecoded) this.#leases.delete(LeasePurpose.DECODE)
    this.#release()
  }

  async #settled(): Promise<void> {
    await Promise.all(this.#calls)
  }

  async #prefill(device: DeviceRef, action: RunAction, tokens: number[]): Promise<void> {
    await this.#call('prefill', SPAN.prefill, device, async (client, span) => {
      span.setAttribute(ATTRIBUTE.tokens, tokens.length)
      const stream = callServerStream(
        client.inference,
        'prefill',
        prefillRequest(this.#setting, tokens, action.firstIndex),
        { timeoutMs: action.timeoutMs, signal: this.#abort.signal },
      )
      let isComputed = false
      for await (const { event } of stream) {
        if (event?.$case === 'finished') isComputed = true
        this.#prefillEvent(event, device, tokens.length, span)
      }
      if (!isComputed) throw new InternalError(`Device ${device.deviceId} ended a prefill without a result.`)
    })
  }

  #prefillEvent(event: PrefillResponse['event'], device: DeviceRef, promptTokens: number, span: Span): void {
    const { tell, onToken, onMissed } = this.#setting
    switch (event?.$case) {
      case 'admitted':
        if (!this.#isOver) tell({ type: 'prefill-admitted', ...this.#id })
        return
      case 'finished': {
        const { token, stopped, computeUs, computeShareUs: shareUs, reuse } = event.value
        const measured = { computeUs, shareUs, reuse }
        for (const missed of this.figures.prefilled(device, promptTokens, measured, span)) onMissed(missed)
        if (this.#isOver) return
        if (token) onToken(token)
        tell({ type: 'prefill-finished', ...this.#id, stopped: stopped || !token })
        return
      }
      case 'kvSent':
        this.figures.kvSent(event.value, span)
        if (!this.#isOver) tell({ type: 'kv-sent', ...this.#id })
    }
  }

  async #decode(action: RunAction, tokens: number[], replay: number[]): Promise<void> {
    const { decode } = action
    await this.#call('decode', SPAN.decode, decode, async (client, span) => {
      const stream = callServerStream(
        client.inference,
        'decode',
        decodeRequest(this.#setting, { ...action, tokens, replay }, this.#leases),
        { timeoutMs: action.timeoutMs, signal: this.#abort.signal },
      )
      for await (const { event } of stream) this.#decodeEvent(event, action, tokens.length, span)
      if (!this.figures.decode && !this.#isOver) {
        throw new InternalError(`Device ${decode.deviceId} ended a decode call without saying why.`)
      }
    })
  }

  #decodeEvent(event: DecodeResponse['event'], action: RunAction, promptTokens: number, span: Span): void {
    const { tell, onToken, onMissed } = this.#setting
    switch (event?.$case) {
      case 'started': {
        const { prefillUs: computeUs, prefillShareUs: shareUs, reuse } = event.value
        const missed = action.prefill
          ? this.figures.arrived(event.value, span)
          : this.figures.prefilled(action.decode, promptTokens, { computeUs, shareUs, reuse }, span)
        for (const blocks of missed) onMissed(blocks)
        if (!this.#isOver) tell({ type: 'decode-started', ...this.#id })
        return
      }
      case 'tokens': {
        const { tokens } = event.value
        const first = tokens[0]
        if (!first || this.#isOver) return
        for (const token of tokens) onToken(token)
        tell({ type: 'tokens', ...this.#id, firstIndex: first.index, count: tokens.length })
        return
      }
      case 'finished': {
        const reason = finishReason(event.value.reason)
        this.figures.decoded(event.value, span)
        if (!this.#isOver) tell({ type: 'decode-finished', ...this.#id, reason })
      }
    }
  }

  /** Runs one call under its span and tells the core when it fails. Never rejects. */
  async #call(
    name: CallName,
    spanName: SpanName,
    device: DeviceRef,
    call: (client: DeviceClient, span: Span) => Promise<void>,
  ): Promise<void> {
    const { clients, parent, decision, tell, onFailure } = this.#setting
    const attributes = {
      [ATTRIBUTE.requestId]: this.#id.requestId,
      [ATTRIBUTE.epoch]: this.#id.epoch,
      [ATTRIBUTE.deviceId]: device.deviceId,
    }
    const run = async (span: Span): Promise<void> => {
      try {
        await call(clients.of(device), span)
      } catch (thrown) {
        if (!this.#isFinished) throw thrown
      }
    }
    try {
      await withSpan(spanName, attributes, run, { kind: SpanKind.CLIENT, parent })
    } catch (thrown) {
      if (this.#isOver) return
      const error = KvasirError.from(thrown)
      onFailure(error)
      const { prefill, decode, attention } = decision
      const involved = [prefill, decode, attention.attend].flatMap((ref) => ref?.deviceId ?? [])
      tell({
        type: 'call-failed',
        ...this.#id,
        call: name,
        ...faultOf(error, name, device.deviceId, involved),
      })
    }
  }

  /** Best effort: a device that does not hear of it ends the lease when its time is over. */
  #release(): void {
    const { clients, decision, parent } = this.#setting
    for (const [purpose, lease] of this.#leases) {
      const device = purpose === LeasePurpose.ATTEND ? decision.attention.attend : decision.decode
      context.with(parent, () => {
        try {
          if (!device) return
          const { kv } = clients.of(device)
          callUnary(kv, 'release', { lease }, { timeoutMs: RELEASE_TIMEOUT_MS }).catch(() => {})
        } catch {
          // The device has left, and its leases with it.
        }
      })
    }
    this.#leases.clear()
  }
}

function finishReason(reason: FinishReason): 'stop' | 'length' | 'preempted' {
  switch (reason) {
    case FinishReason.STOP:
      return 'stop'
    case FinishReason.LENGTH:
      return 'length'
    case FinishReason.PREEMPTED:
      return 'preempted'
    default:
      throw new InternalError('A device ended a decode call for a reason that this release does not know.')
  }
}
