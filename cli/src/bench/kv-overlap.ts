/**
 * How much of a KV transfer was hidden behind prefill, from a trace's span timestamps.
 *
 *   overlap = 1 − (last chunk acknowledged − prefill's end) ÷ (sum of chunk transfer times)
 *
 * A chunk's transfer time runs from its hand-over to its acknowledgement; time in which
 * several were under way is counted once, else a wide window would flatter the figure. All
 * times are the sending agent's, whose two spans are `kv.send` and `prefill.run`. Pure.
 */
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { numberAttribute, numbersAttribute, type TraceSpan } from '../trace/span-tree.js'
import { unionLength } from './statistics.js'

export interface KvTransfer {
  /** From the first layer's start to prefill's end. */
  readonly prefillMs: number
  readonly transferMs: number
  /** Not hidden: from prefill's end to the last acknowledgement. */
  readonly exposedMs: number
  readonly overlap: number
  readonly bytes: number
  readonly chunks: number
}

/** Undefined where the trace has no complete transfer. */
export function kvTransferOf(spans: readonly TraceSpan[]): KvTransfer | undefined {
  const send = spans.find((span) => span.name === SPAN.kvSend)
  const run = spans.find((span) => span.name === SPAN.prefillRun && span.instance === send?.instance)
  if (send === undefined || run === undefined) return undefined
  const sent = numbersAttribute(send, ATTRIBUTE.kvChunkSentUs)
  const acked = numbersAttribute(send, ATTRIBUTE.kvChunkAckedUs)
  if (acked.length === 0 || sent.length !== acked.length) return undefined
  const transferUs = unionLength(sent.map((sentUs, chunk) => [sentUs, acked[chunk] ?? sentUs] as const))
  const prefillEndUs = Number(BigInt(run.endUnixNano) - BigInt(send.startUnixNano)) / 1000
  const exposedUs = Math.max(0, Math.max(...acked) - prefillEndUs)
  return {
    prefillMs: Number(BigInt(run.endUnixNano) - BigInt(run.startUnixNano)) / 1e6,
    transferMs: transferUs / 1000,
    exposedMs: exposedUs / 1000,
    overlap: transferUs > 0 ? 1 - exposedUs / transferUs : 1,
    bytes: numberAttribute(send, ATTRIBUTE.kvBytes) ?? 0,
    chunks: acked.length,
  }
}
