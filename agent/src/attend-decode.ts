/**
 * How one decoding sequence attends, from its request to its figures: dense or within a budget, alone or
 * with another device that answers for its first pages.
 *
 * Invariants: decode steps begin only once the other device is ready; its loss ends this sequence and no
 * other; when the sequence ends, so does what the other device holds for it.
 */
import { type AttentionBudget, attentionAt } from '@kvasir/engine/attention-budget'
import type { AttentionUse } from '@kvasir/engine/device-driver'
import type { AttentionFigures } from '@kvasir/proto/kvasir/inference/v1/inference'
import { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { KvasirError } from '@kvasir/runtime/errors'
import { ATTRIBUTE } from '@kvasir/runtime/telemetry-names'
import type { Attributes } from '@opentelemetry/api'
import { AttentionSums } from './attend-figures.js'
import type { CoreEvent, StepPart } from './core/events.js'
import type { DeviceRunner } from './device-runner.js'
import { Offload, type OffloadParts } from './offload.js'
import type { AttentionRequest } from './offload-request.js'
import type { StepAttention } from './sequence-owner.js'

export class DecodeAttention {
  private readonly sums: AttentionSums
  private offload: Offload | undefined
  private closed = false

  constructor(
    private readonly runner: DeviceRunner,
    /** The sequence. */
    private readonly id: number,
    private readonly request: AttentionRequest,
    layers: number,
  ) {
    this.sums = new AttentionSums(layers)
  }

  /** Dense, and all of it here: what is generated has the KV that a prefill of it would have. */
  get isPlain(): boolean {
    return this.request.budget === undefined && this.request.offload === undefined
  }

  /** The sequence has its blocks. Nothing happens where all attention is this device's own. */
  begin(parts: Omit<OffloadParts, 'target' | 'pages'>): void {
    const target = this.request.offload
    if (target === undefined || this.closed) return
    this.offload = new Offload({ ...parts, target, pages: target.pages })
    this.offload.lost.then((error) => this.runner.fail(this.id, error))
  }

  /** What a row of a decode step adds. */
  at({ start }: StepPart): StepAttention {
    const { budget, seed } = this.request
    return {
      ...(budget === undefined ? {} : { attention: attentionAt(budget, start, seed) }),
      ...(this.offload === undefined ? {} : { remote: this.offload.remote }),
      ...(this.isPlain ? {} : { trackPages: true }),
    }
  }

  layerComputed(layer: number, tokens: number): void {
    this.offload?.layerComputed(layer, tokens)
  }

  /** As `promptComputed`, where another device prefilled. */
  promptReceived(): void {
    this.offload?.received()
    void this.decodeWhenReady()
  }

  /** Decoding begins at once, or when the other device is ready. */
  promptComputed(): void {
    void this.decodeWhenReady()
  }

  add(use: AttentionUse | undefined): void {
    if (use !== undefined) this.sums.add(use)
  }

  /** Undefined where it was dense and all here. */
  figures(): AttentionFigures | undefined {
    return this.isPlain ? undefined : this.sums.message()
  }

  attributes(): Attributes {
    const { budget, offload } = this.request
    if (this.isPlain) return {}
    return {
      ...this.sums.attributes(),
      [ATTRIBUTE.attentionMethod]: budget?.method ?? 'dense',
      ...(budget === undefined ? {} : { [ATTRIBUTE.attentionBudget]: budgetText(budget) }),
      ...(offload === undefined ? {} : { [ATTRIBUTE.attendDevice]: offload.deviceId }),
    }
  }

  /** The sequence is over. Nothing happens the second time. */
  close(): void {
    this.closed = true
    this.offload?.close()
  }

  private async decodeWhenReady(): Promise<void> {
    const { offload } = this
    if (offload === undefined) return
    try {
      await offload.ready()
      if (!this.closed) this.runner.apply({ type: 'offloaded', sequence: this.id })
    } catch (thrown) {
      if (!this.closed) this.runner.fail(this.id, KvasirError.from(thrown))
    }
  }
}

/** What the core is told of it. */
export function coreOffload({
  offload,
}: AttentionRequest): Extract<CoreEvent, { type: 'decode' }>['offload'] {
  if (offload === undefined) return undefined
  const { pages, mode } = offload
  return { pages, mode: mode === AttendMode.PARTIAL ? 'partial' : 'indices' }
}

/** Such as "512 tokens" or "25%". */
function budgetText({ budget }: AttentionBudget): string {
  return 'tokens' in budget ? `${budget.tokens} tokens` : `${budget.share * 100}%`
}
