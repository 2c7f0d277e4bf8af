/**
 * The span of a prompt on the device, with the time at which each layer was done.
 */
import type { Clock } from '@kvasir/runtime/clock'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN, TOKEN_TIMES_MAX } from '@kvasir/runtime/telemetry-names'
import type { Attributes, Context, Span } from '@opentelemetry/api'

export class PrefillSpan {
  private readonly span: Span
  private readonly startMs: number
  private readonly layerUs: number[] = []
  private ended = false

  constructor(
    attributes: Attributes,
    parent: Context,
    private readonly clock: Clock,
  ) {
    this.startMs = clock.nowMs()
    this.span = startSpan(SPAN.prefillRun, attributes, parent)
  }

  /** A layer of a chunk is done. */
  layer(): void {
    if (this.layerUs.length >= TOKEN_TIMES_MAX) return
    this.layerUs.push(Math.round((this.clock.nowMs() - this.startMs) * 1_000))
  }

  /** Nothing happens where it has ended. */
  end(error?: unknown): void {
    if (this.ended) return
    this.ended = true
    this.span.setAttribute(ATTRIBUTE.prefillLayerUs, this.layerUs)
    if (error !== undefined) recordError(this.span, error)
    this.span.end()
  }
}
