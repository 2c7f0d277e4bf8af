/** One point of `study scale`, in a worker thread. */
import { performance } from 'node:perf_hooks'
import { loadCatalogue } from '@kvasir/catalogue/load-catalogue'
import type { Catalogue } from '@kvasir/catalogue/specs'
import { CoordinatorCore } from '@kvasir/coordinator/core/coordinator-core'
import type { CoordinatorEvent } from '@kvasir/coordinator/core/protocol'
import type { RequestLimits } from '@kvasir/coordinator/core/request-machine'
import { VirtualCluster } from '../cluster/virtual-cluster.js'
import { percentile } from '../statistics.js'
import type { Point } from '../study.js'
import { scalePlan } from './scale-plan.js'
import { placementQuality, type QualityResult } from './scale-quality.js'
import { azureLikeRequests } from './scale-workload.js'

export interface ScaleInput {
  readonly kind: 'decide' | 'load' | 'quality'
  readonly catalogue: readonly string[]
  readonly seed: number
  readonly devices: number
  readonly requests: number
  readonly ratePerS: number
  readonly ttftDeadlineMs?: number
}

export interface ScaleResult {
  readonly finished: number
  readonly failed: number
  /** First tokens within the deadline. */
  readonly good: number
  /** Those a second of the time in which requests came. */
  readonly goodputPerS: number
  readonly finishedPerS: number
  readonly ttftP50Ms: number
  readonly ttftP99Ms: number
  readonly tpotMeanMs: number
  readonly virtualS: number
  readonly events: number
  /** Of those, handled one by one. */
  readonly eventsHandled: number
  readonly steps: number
  readonly cpuS: number
  readonly heapBytesMax: number
  /** Of the coordinator's core, from `submit` to what it answers; microseconds. */
  readonly decideP50Us: number
  readonly decideP99Us: number
  readonly quality: QualityResult | null
}

/** TTFTs that are kept for percentiles: of a longer run every nth. */
const KEPT_MAX = 200_000
const HEAP_EVERY = 10_000
/** Devices are heard of before the first request comes. */
const BEGIN_MS = 1_000

export const point: Point<ScaleInput, ScaleResult> = (input, tell) => {
  const catalogue = loadCatalogue([...input.catalogue])
  if (input.kind === 'quality') {
    return { ...nothing(), quality: placementQuality(catalogue, input, tell) }
  }
  return play(catalogue, input, tell)
}

function play(catalogue: Catalogue, input: ScaleInput, tell: (share: number) => void): ScaleResult {
  const decisionUs: number[] = []
  const isTimed = input.kind === 'decide'
  const ttftMs: number[] = []
  const every = Math.ceil(input.requests / KEPT_MAX)
  const { ttftDeadlineMs = Number.POSITIVE_INFINITY } = input
  let [finished, failed, good, tpotSumMs, tpots, lastArrivalMs, heapBytesMax] = [0, 0, 0, 0, 0, 0, 0]
  const cluster = new VirtualCluster(scalePlan(catalogue, input.devices), {
    seed: input.seed,
    limits: {
      attentionDefault: 'dense',
    },
    ...(isTimed ? { makeCoordinator: (limits: RequestLimits) => new TimedCore(limits, decisionUs) } : {}),
    onOutcome: ({ end, request, firstTokenMs, endMs, tokens }) => {
      lastArrivalMs = Math.max(lastArrivalMs, request.arrivalMs)
      const done = finished + failed
      if (done % HEAP_EVERY === 0) {
        heapBytesMax = Math.max(heapBytesMax, process.memoryUsage().heapUsed)
        tell(done / input.requests)
      }
      if (end !== 'finished') {
        failed += 1
        return
      }
      finished += 1
      const waitedMs = firstTokenMs - request.arrivalMs
      if (waitedMs <= ttftDeadlineMs) good += 1
      if (finished % every === 0) ttftMs.push(waitedMs)
      if (tokens > 1) {
        tpotSumMs += (endMs - firstTokenMs) / (tokens - 1)
        tpots += 1
      }
    },
  })
  const before = process.cpuUsage()
  const summary = cluster.run(delayed(input))
  const { user, system } = process.cpuUsage(before)
  const arrivalS = Math.max(lastArrivalMs - BEGIN_MS, 1) / 1_000
  return {
    finished,
    failed,
    good,
    goodputPerS: good / arrivalS,
    finishedPerS: finished / arrivalS,
    ttftP50Ms: percentile(ttftMs, 0.5),
    ttftP99Ms: percentile(ttftMs, 0.99),
    tpotMeanMs: tpotSumMs / tpots,
    virtualS: summary.virtualMs / 1_000,
    events: summary.events,
    eventsHandled: summary.eventsHandled,
    steps: summary.steps,
    cpuS: (user + system) / 1e6,
    heapBytesMax,
    decideP50Us: percentile(decisionUs, 0.5),
    decideP99Us: percentile(decisionUs, 0.99),
    quality: null,
  }
}

function* delayed({ seed, requests, ratePerS, ttftDeadlineMs }: ScaleInput) {
  const wish = { seed, requests, ratePerS, ...(ttftDeadlineMs === undefined ? {} : { ttftDeadlineMs }) }
  for (const request of azureLikeRequests(wish)) {
    yield { ...request, arrivalMs: request.arrivalMs + BEGIN_MS }
  }
}

/** Says how long it takes to decide on a request that comes. */
class TimedCore extends CoordinatorCore {
  readonly #us: number[]

  constructor(limits: RequestLimits, us: number[]) {
    super(limits)
    this.#us = us
  }

  override step(event: CoordinatorEvent, nowMs: number) {
    if (event.type !== 'submit') return super.step(event, nowMs)
    const begin = performance.now()
    const actions = super.step(event, nowMs)
    this.#us.push((performance.now() - begin) * 1_000)
    return actions
  }
}

function nothing(): Omit<ScaleResult, 'quality'> {
  const none = Number.NaN
  return {
    ...{
      finished: 0,
      failed: 0,
      good: 0,
      goodputPerS: none,
      finishedPerS: none,
      ttftP50Ms: none,
      ttftP99Ms: none,
    },
    ...{ tpotMeanMs: none, virtualS: 0, events: 0, eventsHandled: 0, steps: 0, cpuS: 0, heapBytesMax: 0 },
    ...{ decideP50Us: none, decideP99Us: none },
  }
}
