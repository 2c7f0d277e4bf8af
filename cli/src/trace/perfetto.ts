/**
 * A trace in Chrome's trace-event JSON, which https://ui.perfetto.dev opens.
 *
 * One track group a process. Slices of one track must nest, so spans that overlap without
 * nesting get tracks of their own. The arrays inside spans become what they measure: layers
 * nested in their prefill, chunks as asynchronous slices from sending to acknowledgement,
 * tokens as instants. Times are microseconds since the trace began.
 */
import { ATTRIBUTE } from '@kvasir/runtime/telemetry-names'
import type { TraceSpan } from './span-tree.js'
import { buildSpanTree, numbersAttribute, placeOf, type SpanNode, walkTree } from './span-tree.js'

interface TraceEvent {
  readonly ph: 'X' | 'M' | 'b' | 'e' | 'i'
  readonly name: string
  readonly pid: number
  readonly tid: number
  readonly ts?: number
  readonly dur?: number
  readonly cat?: string
  readonly id?: string
  readonly s?: 't'
  readonly args?: Readonly<Record<string, unknown>>
}

export interface PerfettoFile {
  readonly displayTimeUnit: 'ms'
  readonly otherData: Readonly<Record<string, string>>
  readonly traceEvents: readonly TraceEvent[]
}

export function toPerfetto(trace: {
  readonly traceId: string
  readonly requestId: string
  readonly spans: readonly TraceSpan[]
}): PerfettoFile {
  const processes = new Map<string, ProcessTracks>()
  const events: TraceEvent[] = []
  for (const { node } of walkTree(buildSpanTree(trace.spans).roots)) {
    const place = placeOf(node.span)
    let tracks = processes.get(place)
    if (tracks === undefined) {
      tracks = new ProcessTracks(processes.size + 1)
      processes.set(place, tracks)
      events.push({ ph: 'M', name: 'process_name', pid: tracks.pid, tid: 0, args: { name: place } })
    }
    const track = { pid: tracks.pid, tid: tracks.take(node) }
    events.push(sliceOf(node, track), ...partsOf(node, track))
  }
  return {
    displayTimeUnit: 'ms',
    otherData: { traceId: trace.traceId, requestId: trace.requestId },
    traceEvents: events,
  }
}

interface Track {
  readonly pid: number
  readonly tid: number
}

/** Hands out the first track in which a span nests or comes after all others. */
class ProcessTracks {
  /** Of each track, the ends of the slices that are open where the last one began. */
  private readonly open: number[][] = []

  constructor(readonly pid: number) {}

  take(node: SpanNode): number {
    const endUs = node.startUs + node.durationUs
    for (const [index, ends] of this.open.entries()) {
      while ((ends.at(-1) ?? Number.POSITIVE_INFINITY) <= node.startUs) ends.pop()
      if (endUs > (ends.at(-1) ?? Number.POSITIVE_INFINITY)) continue
      ends.push(endUs)
      return index + 1
    }
    this.open.push([endUs])
    return this.open.length
  }
}

function sliceOf({ span, startUs, durationUs }: SpanNode, track: Track): TraceEvent {
  const failure = span.status.code === 'error' ? { error: span.status.message } : {}
  const args = { ...span.attributes, ...failure, spanId: span.spanId }
  return { ph: 'X', name: span.name, cat: span.kind, ts: startUs, dur: durationUs, ...track, args }
}

function partsOf({ span, startUs }: SpanNode, track: Track): TraceEvent[] {
  const layerEnds = numbersAttribute(span, ATTRIBUTE.prefillLayerUs)
  const sent = numbersAttribute(span, ATTRIBUTE.kvChunkSentUs)
  const acked = numbersAttribute(span, ATTRIBUTE.kvChunkAckedUs)
  const tokens = numbersAttribute(span, ATTRIBUTE.decodeTokenUs)
  return [
    ...layerEnds.map((endUs, layer): TraceEvent => {
      const beginUs = layer === 0 ? 0 : (layerEnds[layer - 1] ?? 0)
      return { ph: 'X', name: `layer ${layer}`, ts: startUs + beginUs, dur: endUs - beginUs, ...track }
    }),
    ...acked.flatMap((ackedUs, chunk): TraceEvent[] => {
      const common = { name: `chunk ${chunk}`, cat: 'kv', id: `${span.spanId}.${chunk}`, ...track }
      return [
        { ph: 'b', ts: startUs + (sent[chunk] ?? ackedUs), ...common },
        { ph: 'e', ts: startUs + ackedUs, ...common },
      ]
    }),
    ...tokens.map(
      (us, token): TraceEvent => ({ ph: 'i', s: 't', name: `token ${token}`, ts: startUs + us, ...track }),
    ),
  ]
}
