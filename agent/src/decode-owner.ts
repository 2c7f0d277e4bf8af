/**
 * What the sequence of one Decode call has done so far, told to its stream, and the spans that tell of it.
 */
import type { AttentionUse } from '@kvasir/engine/device-driver'
import type { DecodeStarted, PrefixReuse, TierRead } from '@kvasir/proto/kvasir/inference/v1/inference'
import { FinishReason } from '@kvasir/proto/kvasir/inference/v1/inference'
import { type KvasirError, OverloadedError } from '@kvasir/runtime/errors'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN, TOKEN_TIMES_MAX } from '@kvasir/runtime/telemetry-names'
import { type Attributes, type Context, context } from '@opentelemetry/api'
import type { DecodeAttention } from './attend-decode.js'
import type { EndReason, StepPart, TierTraffic } from './core/events.js'
import type { DecodeOutbox } from './decode-outbox.js'
import type { Device } from './device.js'
import type { ReceivedKv } from './incoming-transfer.js'
import { microseconds } from './microseconds.js'
import { PrefillSpan } from './prefill-span.js'
import { localReuse } from './prefix-reuse.js'
import type { SequenceOwner, StepAttention } from './sequence-owner.js'
import type { ServedModel } from './served-model.js'
import { tokenMessage } from './token-message.js'

const FINISHED: Partial<Record<EndReason, FinishReason>> = {
  stop: FinishReason.STOP,
  length: FinishReason.LENGTH,
  preempted: FinishReason.PREEMPTED,
}

export class DecodeOwner implements SequenceOwner {
  /** Aborts when the sequence ends. */
  readonly over = new AbortController()
  readonly parent: Context = context.active()
  /** What became of its cached prefix. */
  reuse: PrefixReuse = localReuse(0)
  private readonly prefillSpan: PrefillSpan | undefined
  private readonly span
  private readonly arrivedAtMs: number
  private startedAtMs: number | undefined
  private prefillShareUs = 0
  private closed = false
  private steps = 0
  private stepUs = 0
  private batchMax = 0
  private readonly tokenUs: number[] = []

  constructor(
    private readonly device: Device,
    private readonly served: ServedModel,
    private readonly id: number,
    private readonly outbox: DecodeOutbox,
    private readonly attends: DecodeAttention,
    attributes: Attributes,
    prompt: { readonly prefillsHere: boolean; readonly tokens: number },
  ) {
    this.arrivedAtMs = device.clock.nowMs()
    this.span = startSpan(SPAN.decodeRun, attributes, this.parent)
    if (!prompt.prefillsHere) return
    const told = { ...attributes, [ATTRIBUTE.tokens]: prompt.tokens }
    this.prefillSpan = new PrefillSpan(told, this.parent, device.clock)
  }

  started(): void {
    this.startedAtMs ??= this.device.clock.nowMs()
  }

  layerComputed(layer: number, tokens: number): void {
    this.prefillSpan?.layer()
    this.attends.layerComputed(layer, tokens)
  }

  chunkComputed(shareUs: number): void {
    this.prefillShareUs += shareUs
  }

  promptComputed(): void {
    const startedAtMs = this.startedAtMs ?? this.arrivedAtMs
    this.prefillSpan?.end()
    this.say({
      queueUs: microseconds(startedAtMs - this.arrivedAtMs),
      prefillUs: microseconds(this.device.clock.nowMs() - startedAtMs),
      prefillShareUs: BigInt(Math.round(this.prefillShareUs)),
    })
    this.attends.promptComputed()
  }

  /** The prompt's KV has come from another device. */
  received(kv: ReceivedKv): void {
    this.say({ kvBytes: BigInt(kv.bytes), kvChunks: BigInt(kv.chunks), kvUs: BigInt(kv.elapsedUs) })
    this.attends.promptReceived()
  }

  sampled(token: Parameters<typeof tokenMessage>[0], index: number, stopped: boolean): void {
    if (this.tokenUs.length < TOKEN_TIMES_MAX) {
      this.tokenUs.push(Math.round((this.device.clock.nowMs() - this.arrivedAtMs) * 1_000))
    }
    if (stopped || this.outbox.token(tokenMessage(token, index))) return
    const { deviceId } = this.device
    const message = `The consumer of a token stream of device ${deviceId} does not read; read faster or ask for less.`
    this.served.runner.fail(this.id, new OverloadedError(message, { ids: { deviceId } }))
  }

  attention(part: StepPart): StepAttention {
    return this.attends.at(part)
  }

  decoded(elapsedUs: number, sequences: number, use: AttentionUse | undefined): void {
    this.attends.add(use)
    this.steps += 1
    this.stepUs += elapsedUs
    this.batchMax = Math.max(this.batchMax, sequences)
  }

  ended(reason: EndReason, error: KvasirError | undefined, reads: readonly TierTraffic[]): void {
    const finish = FINISHED[reason]
    this.span.setAttributes({
      [ATTRIBUTE.tierNames]: reads.map(({ tier }) => tier),
      [ATTRIBUTE.tierReadBytes]: reads.map(({ readBytes }) => readBytes),
      [ATTRIBUTE.tierMovedBytes]: reads.map(({ movedBytes }) => movedBytes),
    })
    if (finish !== undefined) {
      const { steps, stepUs, batchMax } = this
      const value = {
        reason: finish,
        steps,
        stepUs: BigInt(Math.round(stepUs)),
        batchMax,
        reads: reads.map(tierRead),
        attention: this.attends.figures(),
      }
      this.outbox.finish({ event: { $case: 'finished', value } })
      this.close()
    } else {
      const failure = error ?? this.served.ending(reason)
      this.outbox.fail(failure)
      this.close(failure)
    }
    this.over.abort(this.served.ending(reason))
  }

  /** Ends the spans. Nothing happens the second time. */
  close(error?: KvasirError): void {
    if (this.closed) return
    this.closed = true
    this.attends.close()
    this.prefillSpan?.end(error)
    this.span.setAttributes({
      ...this.attends.attributes(),
      [ATTRIBUTE.cachedTokens]: this.reuse.localTokens,
      [ATTRIBUTE.fetchedTokens]: this.reuse.fetchedTokens,
      [ATTRIBUTE.tokens]: this.tokenUs.length,
      [ATTRIBUTE.decodeTokenUs]: this.tokenUs,
      [ATTRIBUTE.decodeBatchMax]: this.batchMax,
    })
    if (error !== undefined) recordError(this.span, error)
    this.span.end()
  }

  private say(facts: Partial<DecodeStarted>): void {
    const { reuse } = this
    const value = { kvBytes: 0n, kvChunks: 0n, kvUs: 0n, queueUs: 0n, prefillUs: 0n, reuse, ...facts }
    this.outbox.say({ event: { $case: 'started', value } })
  }
}

function tierRead({ tier, readBytes, movedBytes }: TierTraffic): TierRead {
  return { tier, readBytes: BigInt(Math.round(readBytes)), movedBytes: BigInt(Math.round(movedBytes)) }
}
