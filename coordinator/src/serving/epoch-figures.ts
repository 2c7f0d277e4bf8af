/**
 * What the calls of one epoch reported, for the request's report, the cost model and the calls' spans.
 * Times are on the devices' clocks.
 */
import type {
  DecodeFinished,
  DecodeStarted,
  KvSent,
  PrefixReuse,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import { ATTRIBUTE } from '@kvasir/runtime/telemetry-names'
import type { Span } from '@opentelemetry/api'
import type { BlockHashes } from '../core/block-hashes.js'
import type { Decision } from '../core/decision.js'
import type { DeviceRef } from '../core/facts.js'
import { type AttentionSums, readAttention } from './attention-calls.js'
import {
  type MissedBlocks,
  missedByDecode,
  missedByPrefill,
  type ReuseFigures,
  readReuse,
} from './prefix-calls.js'

export interface EpochFigures {
  /** `tokens` were computed after `contextTokens` that were reused. */
  readonly prefill: {
    readonly deviceId: string
    readonly tokens: number
    readonly contextTokens: number
    /** From its first step to its last. */
    readonly computeUs: number
    /** Of that time, what the prompt answers for, as other prompts share its steps; `computeUs` where the agent does not say. */
    readonly shareUs: number
  } | null
  /** On the device that prefilled. */
  readonly reuse: ReuseFigures | null
  /** Tokens that the decoding device held, so that they were not sent to it. */
  readonly heldByDecodeTokens: number
  readonly sent: {
    readonly bytes: number
    /** Of the catalogued model, where the sender is paced. */
    readonly modelledBytes: number | null
    readonly chunks: number
    readonly busyUs: number
    readonly exposedUs: number
  } | null
  readonly received: { readonly bytes: number; readonly chunks: number } | null
  readonly decode: { readonly steps: number; readonly stepUs: number; readonly batchMax: number } | null
  /** Null where attention was dense and all on the decoding device. */
  readonly attention: AttentionSums | null
  /** KV bytes that attention read while decoding, and that were moved, by tier. */
  readonly reads: readonly {
    readonly tier: string
    readonly readBytes: number
    readonly movedBytes: number
  }[]
}

export class EpochRecorder implements EpochFigures {
  prefill: EpochFigures['prefill'] = null
  reuse: EpochFigures['reuse'] = null
  heldByDecodeTokens = 0
  sent: EpochFigures['sent'] = null
  received: EpochFigures['received'] = null
  decode: EpochFigures['decode'] = null
  attention: EpochFigures['attention'] = null
  reads: EpochFigures['reads'] = []
  readonly #decision: Decision
  readonly #blockHashes: BlockHashes

  constructor(decision: Decision, blockHashes: BlockHashes) {
    this.#decision = decision
    this.#blockHashes = blockHashes
  }

  /** The prompt is computed. Returns the blocks that were not where they were thought to be. */
  prefilled(
    device: DeviceRef,
    promptTokens: number,
    measured: {
      readonly computeUs: bigint
      readonly shareUs: bigint | undefined
      readonly reuse?: PrefixReuse | undefined
    },
    span: Span,
  ): readonly MissedBlocks[] {
    const figures = readReuse(measured.reuse)
    const contextTokens = figures.localTokens + figures.fetchedTokens
    const tokens = promptTokens - contextTokens
    const computeUs = Number(measured.computeUs)
    const shareUs = Number(measured.shareUs ?? computeUs)
    this.prefill = { deviceId: device.deviceId, tokens, contextTokens, computeUs, shareUs }
    this.reuse = figures
    const source = this.#decision.prefix.fetch?.device.deviceId
    span.setAttributes({
      [ATTRIBUTE.cachedTokens]: figures.localTokens,
      [ATTRIBUTE.fetchedTokens]: figures.fetchedTokens,
      ...(source === undefined ? {} : { [ATTRIBUTE.fetchedFrom]: source }),
    })
    return missedByPrefill(this.#decision, this.#blockHashes, figures)
  }

  /** The KV of a prompt that another device computed is with the decoding one. Returns as `prefilled`. */
  arrived({ kvBytes, kvChunks, reuse }: DecodeStarted, span: Span): readonly MissedBlocks[] {
    const { localTokens } = readReuse(reuse)
    this.received = { bytes: Number(kvBytes), chunks: Number(kvChunks) }
    this.heldByDecodeTokens = localTokens
    span.setAttribute(ATTRIBUTE.cachedTokens, localTokens)
    return missedByDecode(this.#decision, this.#blockHashes, localTokens)
  }

  kvSent(value: KvSent, span: Span): void {
    const [bytes, chunks] = [Number(value.bytes), Number(value.chunks)]
    const [busyUs, exposedUs] = [Number(value.busyUs), Number(value.exposedUs)]
    const modelledBytes = value.modelledBytes === undefined ? null : Number(value.modelledBytes)
    this.sent = { bytes, modelledBytes, chunks, busyUs, exposedUs }
    span.setAttributes({
      [ATTRIBUTE.kvBytes]: bytes,
      [ATTRIBUTE.kvChunks]: chunks,
      [ATTRIBUTE.kvBusyUs]: busyUs,
      [ATTRIBUTE.kvExposedUs]: exposedUs,
      ...(busyUs > 0 ? { [ATTRIBUTE.kvOverlap]: 1 - exposedUs / busyUs } : {}),
    })
  }

  decoded({ steps, stepUs, batchMax, reads, attention }: DecodeFinished, span: Span): void {
    this.decode = { steps, stepUs: Number(stepUs), batchMax }
    this.attention = readAttention(attention, steps)
    this.reads = reads.map(({ tier, readBytes, movedBytes }) => {
      return { tier, readBytes: Number(readBytes), movedBytes: Number(movedBytes) }
    })
    span.setAttribute(ATTRIBUTE.decodeBatchMax, batchMax)
  }
}
