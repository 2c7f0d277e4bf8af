/**
 * The requests of a study as data, and as what a virtual cluster takes: one after the other, lazily, the same each time
 * they are asked for.
 *
 * W1 The window and the limit are taken of the trace's own times; then arrivals are replaced, or compressed.
 * W2 The first request comes `BEGIN_MS` after the cluster has begun, when its devices have been heard of.
 */
import type { VirtualRequest } from '../cluster/request.js'
import { azureLikeRequests } from '../studies/scale-workload.js'
import { type ArrivalModel, gapsMs } from './arrivals.js'
import { namesOfIds } from './block-names.js'
import { type TraceFacts, type TraceSource, traceRows } from './trace-file.js'

export interface TraceWorkload {
  readonly kind: 'trace'
  readonly source: TraceSource
  readonly facts: TraceFacts
  /** Of the trace's time, from its first row. */
  readonly fromMs: number
  readonly toMs: number
  readonly limit: number
  /** Times are divided by it. */
  readonly speed: number
  readonly arrivals?: ArrivalModel
}

/** Lengths like those of the Azure trace. */
export interface SyntheticWorkload {
  readonly kind: 'synthetic'
  readonly requests: number
  readonly arrivals: ArrivalModel
}

export type Workload = TraceWorkload | SyntheticWorkload

export interface RequestsWish {
  readonly seed: number
  readonly blockTokens: number
  /** False: no prompt shares blocks with another. */
  readonly hasReuse: boolean
  /** Deadline of the first token, of requests that have none of their own. */
  readonly ttftDeadlineMs?: number
}

export const BEGIN_MS = 1_000

export function* requestsOf(workload: Workload, wish: RequestsWish): Generator<VirtualRequest> {
  const { arrivals } = workload
  const gaps = arrivals && gapsMs(arrivals, wish.seed)
  let drawnMs = 0
  let isFirst = true
  for (const request of timed(workload, wish)) {
    if (gaps && !isFirst) drawnMs += gaps.next().value
    isFirst = false
    const { ttftDeadlineMs = wish.ttftDeadlineMs } = request
    yield {
      ...request,
      arrivalMs: BEGIN_MS + (gaps ? drawnMs : request.arrivalMs),
      blocks: wish.hasReuse ? request.blocks : [],
      ...(ttftDeadlineMs === undefined ? {} : { ttftDeadlineMs }),
    }
  }
}

function timed(workload: Workload, wish: RequestsWish): Iterable<VirtualRequest> {
  if (workload.kind === 'trace') return ofTrace(workload, wish.blockTokens)
  // Its own arrivals are not looked at.
  return azureLikeRequests({ seed: wish.seed, requests: workload.requests, ratePerS: 1 })
}

function* ofTrace(workload: TraceWorkload, blockTokens: number): Generator<VirtualRequest> {
  const { source, facts, fromMs, toMs, limit, speed } = workload
  let count = 0
  for (const { line, row } of traceRows(source, facts)) {
    const atMs = row.timeMs - facts.firstTimeMs
    if (atMs < fromMs) continue
    if (atMs >= toMs || count >= limit) return
    count += 1
    const { promptTokens, outputTokens, ids = [], idTokens = blockTokens } = row
    const { maxTokens, tenant, priority, ttftDeadlineMs, leavesAfterMs } = row
    yield {
      requestId: `line-${line}`,
      arrivalMs: (atMs - fromMs) / speed,
      promptTokens,
      outputTokens,
      blocks: namesOfIds(ids, idTokens, blockTokens, promptTokens),
      ...(maxTokens === undefined ? {} : { maxTokens }),
      ...(tenant === undefined ? {} : { tenant }),
      ...(priority === undefined ? {} : { priority }),
      ...(ttftDeadlineMs === undefined ? {} : { ttftDeadlineMs }),
      ...(leavesAfterMs === undefined ? {} : { leavesAfterMs }),
    }
  }
}
