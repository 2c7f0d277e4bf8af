/** What is counted of a replay while it runs: percentiles, the SLO, windows of time, devices at work. */
import type { RequestOutcome } from '../cluster/request.js'
import type { Sample } from '../cluster/world.js'
import { BEGIN_MS } from '../workload/workload.js'
import { KeptValues } from './kept-values.js'

export interface Slo {
  readonly ttftMs: number
  readonly tpotMs: number
}

export interface Spread {
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly mean: number
}

/** Of requests that came in it. */
export interface WindowMeasure {
  readonly fromS: number
  readonly arrived: number
  readonly finished: number
  readonly attained: number
  readonly ttftP50Ms: number
  readonly ttftP99Ms: number
  readonly tpotP50Ms: number
  readonly promptTokens: number
  readonly cachedTokens: number
  /** Means of what was seen in it. */
  readonly queued: number
  readonly active: number
}

export interface ReplayMeasure {
  readonly arrived: number
  readonly finished: number
  /** By why, such as overloaded. */
  readonly failed: Readonly<Record<string, number>>
  readonly attained: number
  readonly attainedTtft: number
  readonly attainedTpot: number
  readonly ttft: Spread
  readonly tpot: Spread
  /** From arrival to the last token. */
  readonly latency: Spread
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly fetchedTokens: number
  readonly outputTokens: number
  /** Requests that were placed more than once. */
  readonly moved: number
  /** From the first arrival to the last end. */
  readonly durationMs: number
  readonly windows: readonly WindowMeasure[]
  /** By device, one share of busy samples a window; null where there was none. */
  readonly busy: Readonly<Record<string, readonly (number | null)[]>>
  /** TTFT that a share of the requests has at most. */
  readonly ttftCurve: readonly { readonly share: number; readonly ms: number }[]
}

const KEPT_MAX = 200_000
const WINDOW_KEPT_MAX = 8_192
const CURVE_POINTS = 100

class Window {
  arrived = 0
  finished = 0
  attained = 0
  promptTokens = 0
  cachedTokens = 0
  samples = 0
  queued = 0
  active = 0
  readonly ttft = new KeptValues(WINDOW_KEPT_MAX)
  readonly tpot = new KeptValues(WINDOW_KEPT_MAX)
  readonly busy = new Map<string, number>()
}

export class ReplayMeter {
  readonly #windows: readonly Window[]
  readonly #ttft = new KeptValues(KEPT_MAX)
  readonly #tpot = new KeptValues(KEPT_MAX)
  readonly #latency = new KeptValues(KEPT_MAX)
  readonly #failed = new Map<string, number>()
  #sums = {
    ...{ arrived: 0, finished: 0, attained: 0, attainedTtft: 0, attainedTpot: 0, moved: 0 },
    ...{ promptTokens: 0, cachedTokens: 0, fetchedTokens: 0, outputTokens: 0 },
  }
  #lastEndMs = 0

  constructor(
    private readonly slo: Slo,
    private readonly windowMs: number,
    windows: number,
  ) {
    this.#windows = Array.from({ length: windows }, () => new Window())
  }

  get ended(): number {
    return this.#sums.arrived
  }

  /** Requests that did not meet the SLO. */
  get missed(): number {
    return this.#sums.arrived - this.#sums.attained
  }

  outcome(outcome: RequestOutcome): void {
    const { request, firstTokenMs, endMs, tokens, placements, cachedTokens } = outcome
    const sums = this.#sums
    const window = this.#windowAt(request.arrivalMs)
    sums.arrived += 1
    sums.outputTokens += tokens
    sums.moved += placements > 1 ? 1 : 0
    window.arrived += 1
    this.#lastEndMs = Math.max(this.#lastEndMs, endMs)
    if (outcome.end !== 'finished') {
      const why = outcome.code === '' ? outcome.end : outcome.code
      this.#failed.set(why, (this.#failed.get(why) ?? 0) + 1)
      return
    }
    const ttftMs = firstTokenMs - request.arrivalMs
    const tpotMs = tokens > 1 ? (endMs - firstTokenMs) / (tokens - 1) : undefined
    const isTtftMet = ttftMs <= this.slo.ttftMs
    const isTpotMet = tpotMs === undefined || tpotMs <= this.slo.tpotMs
    sums.finished += 1
    sums.attainedTtft += isTtftMet ? 1 : 0
    sums.attainedTpot += isTpotMet ? 1 : 0
    sums.attained += isTtftMet && isTpotMet ? 1 : 0
    sums.promptTokens += request.promptTokens
    sums.cachedTokens += cachedTokens
    sums.fetchedTokens += outcome.fetchedTokens
    window.finished += 1
    window.attained += isTtftMet && isTpotMet ? 1 : 0
    window.promptTokens += request.promptTokens
    window.cachedTokens += cachedTokens
    for (const kept of [this.#ttft, window.ttft]) kept.add(ttftMs)
    if (tpotMs !== undefined) for (const kept of [this.#tpot, window.tpot]) kept.add(tpotMs)
    this.#latency.add(endMs - request.arrivalMs)
  }

  sample({ atMs, queued, active, devices }: Sample): void {
    const window = this.#windowAt(atMs)
    window.samples += 1
    window.queued += queued
    window.active += active
    for (const { deviceId, busy } of devices) {
      if (busy) window.busy.set(deviceId, (window.busy.get(deviceId) ?? 0) + 1)
    }
  }

  measure(deviceIds: readonly string[]): ReplayMeasure {
    const shares = Array.from({ length: CURVE_POINTS + 1 }, (_, index) => index / CURVE_POINTS)
    const curve = this.#ttft.percentiles(shares)
    return {
      ...this.#sums,
      failed: Object.fromEntries([...this.#failed].sort(([a], [b]) => (a < b ? -1 : 1))),
      ttft: spread(this.#ttft),
      tpot: spread(this.#tpot),
      latency: spread(this.#latency),
      durationMs: Math.max(0, this.#lastEndMs - BEGIN_MS),
      windows: this.#windows.map((window, index) => this.#windowMeasure(window, index)),
      busy: Object.fromEntries(
        deviceIds.map((deviceId) => [
          deviceId,
          this.#windows.map(({ samples, busy }) =>
            samples === 0 ? null : (busy.get(deviceId) ?? 0) / samples,
          ),
        ]),
      ),
      ttftCurve: shares.map((share, index) => ({ share, ms: curve[index] ?? Number.NaN })),
    }
  }

  /** What comes after the last one belongs to it. */
  #windowAt(atMs: number): Window {
    const index = Math.floor((atMs - BEGIN_MS) / this.windowMs)
    const window = this.#windows[Math.max(0, Math.min(this.#windows.length - 1, index))]
    if (!window) throw new RangeError('A replay has at least one window.')
    return window
  }

  #windowMeasure(window: Window, index: number): WindowMeasure {
    const { arrived, finished, attained, promptTokens, cachedTokens, samples } = window
    const [ttftP50Ms = Number.NaN, ttftP99Ms = Number.NaN] = window.ttft.percentiles([0.5, 0.99])
    const [tpotP50Ms = Number.NaN] = window.tpot.percentiles([0.5])
    return {
      fromS: (index * this.windowMs) / 1_000,
      ...{ arrived, finished, attained, promptTokens, cachedTokens, ttftP50Ms, ttftP99Ms, tpotP50Ms },
      queued: window.queued / samples,
      active: window.active / samples,
    }
  }
}

function spread(values: KeptValues): Spread {
  const [p50 = Number.NaN, p90 = Number.NaN, p99 = Number.NaN] = values.percentiles([0.5, 0.9, 0.99])
  return { p50, p90, p99, mean: values.mean }
}
