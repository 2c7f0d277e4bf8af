/**
 * The span of a KV transfer as its sender sees it: from the receiver's coming to the last acknowledgement.
 */
import type { Clock } from '@kvasir/runtime/clock'
import { recordError, startSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import type { Attributes, Context, Span } from '@opentelemetry/api'
import type { OutgoingTransfer } from './outgoing-transfer.js'

export class SendSpan {
  private span: Span | undefined
  private openedAtMs = 0

  constructor(
    private readonly attributes: Attributes,
    private readonly parent: Context,
    private readonly clock: Clock,
  ) {}

  /** The receiver has come. */
  opened(): void {
    this.openedAtMs = this.clock.nowMs()
    this.span = startSpan(SPAN.kvSend, this.attributes, this.parent)
  }

  /** Nothing happens where no receiver came. */
  end({ times, mergeLayers }: Pick<OutgoingTransfer, 'times' | 'mergeLayers'>, error?: unknown): void {
    if (this.span === undefined) return
    const { sentUs, ackedUs } = times.since(this.openedAtMs)
    const { bytes, chunks, busyUs, exposedUs } = times
    this.span.setAttributes({
      [ATTRIBUTE.kvBytes]: bytes,
      [ATTRIBUTE.kvChunks]: chunks,
      [ATTRIBUTE.kvMergeLayers]: mergeLayers,
      [ATTRIBUTE.kvBusyUs]: busyUs,
      [ATTRIBUTE.kvExposedUs]: exposedUs,
      [ATTRIBUTE.kvBytesPerSecond]: busyUs === 0 ? 0 : Math.round(bytes / (busyUs / 1e6)),
      [ATTRIBUTE.kvOverlap]: busyUs === 0 ? 0 : 1 - exposedUs / busyUs,
      [ATTRIBUTE.kvChunkSentUs]: sentUs,
      [ATTRIBUTE.kvChunkAckedUs]: ackedUs,
    })
    if (error !== undefined) recordError(this.span, error)
    this.span.end()
  }
}
