/**
 * When a request that waits will have its first token, learned from those before it.
 *
 * The wait in the queue is the work ahead over the rate at which work was placed while some waited; before anything
 * was seen it is what the cost model says the devices do. The rest, from its place to its first token, is a line through
 * what the cost model predicted and what was measured (overhead-line.ts). Twice the usual error is added, so that most
 * of those that are taken arrive in time.
 *
 * F1. A cost model that is wrong by a factor makes forecasts wrong for a few requests, not for good: both parts follow
 *     what is measured, and where nothing was measured for a while one request is taken to see (`mayProbe`).
 */
import { OverheadLine } from './overhead-line.js'

/** Time after which what was seen of the queue counts for a third. */
const MEMORY_MS = 10_000
/** What the cost model says of the rate counts like so much time of seeing it. */
const PRIOR_MS = 500
const ERROR_WEIGHT = 0.1
/** First tokens after which predictions count as confirmed. */
const CONFIRMED = 8
/** Before that they may be wrong by a factor, and a request that may be in time is not refused. */
const UNCONFIRMED_SHARE = 0.5
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
  readonly #line = new OverheadLine()
  #errorMs = 0
  #aheadMs = 0
  #observed = 0
  #observedAtMs = Number.NEGATIVE_INFINITY
  #probedAtMs = Number.NEGATIVE_INFINITY

  /** Whether predictions were compared with enough that was measured. */
  get isConfirmed(): boolean {
    return this.#observed >= CONFIRMED
  }

  /** How many times as long as predicted it takes, but for what every request takes besides. */
  get ratio(): number {
    return this.#line.ratio
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

  /**
   * Until so much work is placed, milliseconds; 0 where nothing is known, and so nothing may be held against it.
   * `tokensPerMs`: what the cost model says the devices do.
   */
  waitMs(tokens: number, tokensPerMs: number, nowMs: number): number {
    if (tokens <= 0) return 0
    const openMs = this.#sinceMs === null ? 0 : nowMs - this.#sinceMs
    const seenMs = this.#seenMs + openMs + PRIOR_MS
    const seenTokens = this.#seenTokens + PRIOR_MS * tokensPerMs
    return seenTokens > 0 ? (tokens * seenMs) / seenTokens : 0
  }

  /** From a place to the first token, of one that has it: `ttftMs` as the cost model says, milliseconds. */
  placedMs(ttftMs: number): number {
    const meanMs = this.#line.at(ttftMs)
    if (!this.isConfirmed) return UNCONFIRMED_SHARE * meanMs
    return meanMs + Math.min(ERRORS_ADDED * this.#errorMs, MARGIN_SHARE_MAX * meanMs)
  }

  /** The same of one that has none yet: `prefillMs` on an idle device. */
  laterMs(prefillMs: number): number {
    return this.placedMs(prefillMs + this.#aheadMs)
  }

  /** A first token came. Milliseconds since the request was placed, as predicted without correction and as measured. */
  observe(predictedMs: number, measuredMs: number, nowMs: number): void {
    this.#errorMs += ERROR_WEIGHT * (Math.abs(measuredMs - this.#line.at(predictedMs)) - this.#errorMs)
    this.#line.add(predictedMs, measuredMs, nowMs - this.#observedAtMs)
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
}
