/**
 * When a request that waits will have its first token, learned from those before it.
 *
 * The wait in the queue is the work ahead over the rate at which work was placed while some waited; before anything
 * was seen it is what the cost model says the devices do. The rest, from its place to its first token, is what the cost
 * model predicts times what such predictions turned out to be short by. Twice the usual error is added, so that most
 * of those that are taken arrive in time.
 *
 * F1. A cost model that is wrong by a factor makes forecasts wrong for a few requests, not for good: both parts follow
 *     what is measured, and where nothing was measured for a while one request is taken to see (`mayProbe`).
 */

/** Time after which what was seen of the queue counts for a third. */
const MEMORY_MS = 10_000
/** What the cost model says of the rate counts like so much time of seeing it. */
const PRIOR_MS = 500
/** Share of what is known that one more first token leaves; less where the one before it was long ago. */
const KEPT = 0.95
const KEPT_MIN = 0.3
const KEPT_FOR_MS = 3_000
const ERROR_WEIGHT = 0.1
/** First tokens after which predictions count as confirmed. */
const CONFIRMED = 8
const RATIO_MIN = 0.05
const RATIO_MAX = 20
const ERRORS_ADDED = 2
/** An error that is as large as the forecast itself is of no use. */
const MARGIN_SHARE_MAX = 0.5
/** Nothing was seen for so long. */
const PROBE_AFTER_MS = 1_000
/** One that is predicted to take so many times what it may is not even tried. */
const PROBE_RATIO_MAX = 4

export class TtftForecast {
  /** Work placed while some waited, tokens, and that time; both fading. */
  #seenTokens = 0
  #seenMs = 0
  /** Since then some wait, or something was placed while they did. */
  #sinceMs: number | null = null
  #predictedMs = 0
  #measuredMs = 0
  #errorMs = 0
  #aheadMs = 0
  #observed = 0
  #observedAtMs = Number.NEGATIVE_INFINITY
  #probedAtMs = Number.NEGATIVE_INFINITY

  /** Whether predictions were compared with enough that was measured. */
  get isConfirmed(): boolean {
    return this.#observed >= CONFIRMED
  }

  /** How many times as long as predicted it takes from a place to the first token. */
  get ratio(): number {
    if (this.#predictedMs <= 0) return 1
    return Math.min(RATIO_MAX, Math.max(RATIO_MIN, this.#measuredMs / this.#predictedMs))
  }

  /** Some wait from now on, or nobody does any more. */
  waiting(isAnyone: boolean, nowMs: number): void {
    if (isAnyone) this.#sinceMs ??= nowMs
    else this.#sinceMs = null
  }

  /**
   * One that has waited has its place. `aheadMs`: predicted of those prompts that are before it on the device.
   */
  placed(tokens: number, aheadMs: number, nowMs: number): void {
    this.#aheadMs += ERROR_WEIGHT * (aheadMs - this.#aheadMs)
    if (this.#sinceMs === null) return
    const passedMs = nowMs - this.#sinceMs
    const kept = Math.exp(-passedMs / MEMORY_MS)
    this.#seenMs = this.#seenMs * kept + passedMs
    this.#seenTokens = this.#seenTokens * kept + tokens
    this.#sinceMs = nowMs
  }

  /** Until so much work is placed, milliseconds. `tokensPerMs`: what the cost model says the devices do. */
  waitMs(tokens: number, tokensPerMs: number, nowMs: number): number {
    if (tokens <= 0) return 0
    const openMs = this.#sinceMs === null ? 0 : nowMs - this.#sinceMs
    const seenMs = this.#seenMs + openMs + PRIOR_MS
    return (tokens * seenMs) / (this.#seenTokens + PRIOR_MS * tokensPerMs)
  }

  /** From a place to the first token, of one that has it: `ttftMs` as the cost model says, milliseconds. */
  placedMs(ttftMs: number): number {
    return this.ratio * ttftMs + this.#marginMs(this.ratio * ttftMs)
  }

  /** The same of one that has none yet: `prefillMs` on an idle device. */
  laterMs(prefillMs: number): number {
    return this.placedMs(prefillMs + this.#aheadMs)
  }

  /** A first token came. Milliseconds since the request was placed, as predicted without correction and as measured. */
  observe(predictedMs: number, measuredMs: number, nowMs: number): void {
    this.#errorMs += ERROR_WEIGHT * (Math.abs(measuredMs - this.ratio * predictedMs) - this.#errorMs)
    const kept = Math.max(KEPT_MIN, KEPT * Math.exp((this.#observedAtMs - nowMs) / KEPT_FOR_MS))
    this.#predictedMs = this.#predictedMs * kept + predictedMs
    this.#measuredMs = this.#measuredMs * kept + measuredMs
    this.#observed += 1
    this.#observedAtMs = nowMs
  }

  /** Whether one that is predicted to be late is taken all the same, to see whether that is still so. */
  mayProbe(forecastMs: number, deadlineMs: number, nowMs: number): boolean {
    if (forecastMs > PROBE_RATIO_MAX * deadlineMs) return false
    if (nowMs - Math.max(this.#observedAtMs, this.#probedAtMs) < PROBE_AFTER_MS) return false
    this.#probedAtMs = nowMs
    return true
  }

  #marginMs(forecastMs: number): number {
    return Math.min(ERRORS_ADDED * this.#errorMs, MARGIN_SHARE_MAX * forecastMs)
  }
}
