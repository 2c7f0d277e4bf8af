/**
 * Keeps the last traces in memory, whole: spans of the coordinator and of every agent,
 * grouped by trace. Not its job: receiving (gateway), sending on (trace-forwarder.ts).
 *
 * Invariants:
 * T1 Bounded in traces, in bytes, and in bytes of one trace; the oldest trace goes first,
 *    and what did not fit is counted.
 * T2 A trace is decided `graceMs` after its last root ended, and never while one of its
 *    requests runs (a caller may put several into its trace): errors and slow requests are
 *    kept always, the others by ratio. That choice depends on the trace id alone, so several
 *    coordinators choose alike. Until then it can be looked up like a kept one.
 * T3 Spans of a kept trace are handed to `onKept` once each, late ones included.
 */
import type { Clock } from '@kvasir/runtime/clock'
import { delay } from '@kvasir/runtime/deferred'
import { durationMs, type StoredSpan, spanBytes } from './stored-span.js'

/** Longest that `settled` waits; what a client asks for beyond it is cut. */
export const SETTLE_MS_MAX = 30_000
/** Agents send spans in batches at most 300 ms apart; silence of this length means that all came. */
const QUIET_MS = 500
const SETTLE_POLL_MS = 50
/** How long spans of a trace that was not kept are still recognised as such. */
const DROPPED_MEMORY_MS = 10_000
const DROPPED_TRACES_MAX = 10_000

export interface TraceStoreOptions {
  readonly clock: Clock
  /** Name of the span whose end completes a trace. */
  readonly rootSpanName: string
  /** Attribute of the root that holds the request id. */
  readonly requestIdAttribute: string
  readonly tracesMax: number
  readonly bytesMax: number
  /** Share of ordinary traces that is kept, 0 to 1. */
  readonly sampleRatio: number
  /** A request that took longer is always kept. */
  readonly slowRequestMs: number
  /** From the root's end to the decision. */
  readonly graceMs: number
  readonly onKept?: (spans: readonly StoredSpan[]) => void
}

export interface TraceView {
  readonly traceId: string
  /** Of the request asked for, or of the first in the trace; empty before a root has ended. */
  readonly requestId: string
  /** Whether a root has ended and no span's parent is missing. */
  readonly complete: boolean
  /** Spans lost to the bounds. */
  readonly droppedSpans: number
  /** By start. */
  readonly spans: readonly Omit<StoredSpan, 'traceId'>[]
}

export interface TraceSummary {
  readonly traceId: string
  readonly requestIds: readonly string[]
  readonly startUnixNano: string
  /** Of the first root; null before it has ended. */
  readonly durationMs: number | null
  readonly spanCount: number
  readonly error: boolean
}

export interface TraceStoreStats {
  readonly traces: number
  readonly bytes: number
  readonly tracesKept: number
  readonly tracesSampledOut: number
  readonly tracesEvicted: number
  readonly spansDropped: number
}

interface Trace {
  readonly traceId: string
  readonly spans: Map<string, StoredSpan>
  readonly requestIds: string[]
  bytes: number
  /** The last one's. */
  rootEndedMs: number | null
  rootDurationMs: number
  error: boolean
  kept: boolean
  lastChangeMs: number
  droppedSpans: number
}

export class TraceStore {
  private readonly traces = new Map<string, Trace>()
  private readonly traceOfRequest = new Map<string, string>()
  /** Trace id → until when its late spans are thrown away. */
  private readonly sampledOut = new Map<string, number>()
  /** Requests that run, by trace id. */
  private readonly running = new Map<string, number>()
  private bytes = 0
  private tracesKept = 0
  private tracesSampledOut = 0
  private tracesEvicted = 0
  private spansDropped = 0

  constructor(private readonly options: TraceStoreOptions) {}

  add(spans: readonly StoredSpan[]): void {
    const nowMs = this.options.clock.nowMs()
    const late: StoredSpan[] = []
    for (const span of spans) {
      if ((this.sampledOut.get(span.traceId) ?? 0) > nowMs) continue
      const trace = this.traces.get(span.traceId) ?? this.open(span.traceId)
      if (this.addSpan(trace, span, nowMs) && trace.kept) late.push(span)
    }
    this.evict()
    if (late.length > 0) this.options.onKept?.(late)
  }

  /** A request of this trace begins; `requestEnded` must follow. */
  requestStarted(traceId: string): void {
    this.running.set(traceId, (this.running.get(traceId) ?? 0) + 1)
    // The caller's trace goes on, whatever was decided about its earlier requests.
    this.sampledOut.delete(traceId)
  }

  requestEnded(traceId: string): void {
    const others = (this.running.get(traceId) ?? 1) - 1
    if (others > 0) this.running.set(traceId, others)
    else this.running.delete(traceId)
    // Its root comes in a moment: the grace of an earlier one must not end before.
    const trace = this.traces.get(traceId)
    if (trace && trace.rootEndedMs !== null) trace.rootEndedMs = this.options.clock.nowMs()
  }

  /** Decides the traces whose grace is over (`graceMs` where another is not given); to be called a few times a second. */
  sweep(graceMs = this.options.graceMs): void {
    const nowMs = this.options.clock.nowMs()
    for (const trace of this.traces.values()) {
      if (trace.kept || trace.rootEndedMs === null || nowMs - trace.rootEndedMs < graceMs) continue
      if (this.running.has(trace.traceId)) continue
      if (this.shouldKeep(trace)) {
        trace.kept = true
        this.tracesKept++
        this.options.onKept?.([...trace.spans.values()])
      } else {
        this.remove(trace)
        this.tracesSampledOut++
        this.sampledOut.set(trace.traceId, nowMs + DROPPED_MEMORY_MS)
      }
    }
    for (const [traceId, untilMs] of this.sampledOut) {
      if (untilMs > nowMs && this.sampledOut.size <= DROPPED_TRACES_MAX) break
      this.sampledOut.delete(traceId)
    }
  }

  /** By trace id or request id; undefined where unknown, not kept or evicted. */
  find(id: string): TraceView | undefined {
    const trace = this.lookUp(id)
    if (!trace) return undefined
    const spans = [...trace.spans.values()].sort((a, b) => compareNanos(a.startUnixNano, b.startUnixNano))
    return {
      traceId: trace.traceId,
      requestId: trace.requestIds.includes(id) ? id : (trace.requestIds[0] ?? ''),
      complete: this.isComplete(trace),
      droppedSpans: trace.droppedSpans,
      spans: spans.map(({ traceId: _, ...span }) => span),
    }
  }

  /** Like `find`, after the trace is complete and has been quiet, or after `waitMs` at the latest. */
  async settled(id: string, waitMs: number, signal?: AbortSignal): Promise<TraceView | undefined> {
    const { clock } = this.options
    const deadlineMs = clock.nowMs() + Math.min(waitMs, SETTLE_MS_MAX)
    for (;;) {
      const nowMs = clock.nowMs()
      const trace = this.lookUp(id)
      const settled = trace && this.isComplete(trace) && nowMs - trace.lastChangeMs >= QUIET_MS
      if (settled || nowMs >= deadlineMs || signal?.aborted) return this.find(id)
      await delay(Math.min(SETTLE_POLL_MS, deadlineMs - nowMs), signal)
    }
  }

  /** The last traces, newest first. */
  recent(limit: number): TraceSummary[] {
    return [...this.traces.values()].slice(-limit).reverse().map(summary)
  }

  stats(): TraceStoreStats {
    return {
      traces: this.traces.size,
      bytes: this.bytes,
      tracesKept: this.tracesKept,
      tracesSampledOut: this.tracesSampledOut,
      tracesEvicted: this.tracesEvicted,
      spansDropped: this.spansDropped,
    }
  }

  private open(traceId: string): Trace {
    const trace: Trace = {
      traceId,
      spans: new Map(),
      requestIds: [],
      bytes: 0,
      rootEndedMs: null,
      rootDurationMs: 0,
      error: false,
      kept: false,
      lastChangeMs: 0,
      droppedSpans: 0,
    }
    this.traces.set(traceId, trace)
    return trace
  }

  /** False where the span was known already or did not fit. */
  private addSpan(trace: Trace, span: StoredSpan, nowMs: number): boolean {
    if (trace.spans.has(span.spanId)) return false
    const bytes = spanBytes(span)
    // One runaway trace must not push out all the others.
    if (trace.bytes + bytes > this.options.bytesMax / 4) {
      trace.droppedSpans++
      this.spansDropped++
      return false
    }
    trace.spans.set(span.spanId, span)
    trace.bytes += bytes
    this.bytes += bytes
    trace.lastChangeMs = nowMs
    if (span.status.code === 'error') trace.error = true
    if (span.name === this.options.rootSpanName) this.addRoot(trace, span, nowMs)
    return true
  }

  private addRoot(trace: Trace, root: StoredSpan, nowMs: number): void {
    trace.rootEndedMs = nowMs
    trace.rootDurationMs = Math.max(trace.rootDurationMs, durationMs(root))
    const requestId = root.attributes[this.options.requestIdAttribute]
    if (typeof requestId === 'string') {
      trace.requestIds.push(requestId)
      this.traceOfRequest.set(requestId, trace.traceId)
    }
  }

  private shouldKeep(trace: Trace): boolean {
    if (trace.error || trace.rootDurationMs > this.options.slowRequestMs) return true
    // The last digits of a trace id are random (W3C Trace Context, level 2).
    return Number.parseInt(trace.traceId.slice(-8), 16) / 2 ** 32 < this.options.sampleRatio
  }

  private isComplete(trace: Trace): boolean {
    if (trace.rootEndedMs === null) return false
    for (const span of trace.spans.values()) {
      // A root's parent, if it has one, is the client's and never comes here.
      if (span.name === this.options.rootSpanName) continue
      if (span.parentSpanId !== null && !trace.spans.has(span.parentSpanId)) return false
    }
    return true
  }

  private lookUp(id: string): Trace | undefined {
    return this.traces.get(this.traceOfRequest.get(id) ?? id.toLowerCase())
  }

  private evict(): void {
    for (const trace of this.traces.values()) {
      if (this.traces.size <= this.options.tracesMax && this.bytes <= this.options.bytesMax) return
      this.remove(trace)
      this.tracesEvicted++
    }
  }

  private remove(trace: Trace): void {
    this.traces.delete(trace.traceId)
    this.bytes -= trace.bytes
    for (const requestId of trace.requestIds) this.traceOfRequest.delete(requestId)
  }
}

function summary(trace: Trace): TraceSummary {
  let startUnixNano: string | undefined
  for (const span of trace.spans.values()) {
    if (startUnixNano === undefined || compareNanos(span.startUnixNano, startUnixNano) < 0) {
      startUnixNano = span.startUnixNano
    }
  }
  return {
    traceId: trace.traceId,
    requestIds: trace.requestIds,
    startUnixNano: startUnixNano ?? '0',
    durationMs: trace.rootEndedMs === null ? null : trace.rootDurationMs,
    spanCount: trace.spans.size,
    error: trace.error,
  }
}

function compareNanos(a: string, b: string): number {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0)
}
