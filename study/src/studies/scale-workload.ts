/**
 * Requests with lengths like those of the Azure LLM inference trace of 2023 (code; CC-BY-4.0): drawn between its published
 * quantiles, arriving at random (Poisson). No prefix is shared, since the trace tells of none.
 */
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64'
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus'
import type { VirtualRequest } from '../cluster/request.js'

/** Shares of the trace's 8,819 requests, and tokens that so many of them have at most. */
const SHARES = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1]
const PROMPT_TOKENS = [3, 75, 147, 385, 770, 1075, 1469, 1909, 2433, 3193, 5194, 7315, 7436, 7436, 7437, 7437]
const OUTPUT_TOKENS = [6, 6, 7, 8, 9, 11, 13, 16, 20, 29, 55, 90, 172, 252, 831, 1899]

export interface AzureLike {
  readonly seed: number
  readonly requests: number
  /** Infinity: all at once. */
  readonly ratePerS: number
  readonly ttftDeadlineMs?: number
}

/** One after the other, as time goes on: a million take no more memory than one. */
export function* azureLikeRequests(wish: AzureLike): Generator<VirtualRequest> {
  const generator = xoroshiro128plus(wish.seed)
  const draw = () => uniformFloat64(generator)
  let arrivalMs = 0
  for (let index = 0; index < wish.requests; index += 1) {
    arrivalMs += (-Math.log1p(-draw()) / wish.ratePerS) * 1_000
    yield {
      requestId: `request-${index}`,
      arrivalMs,
      promptTokens: lengthAt(draw(), PROMPT_TOKENS),
      outputTokens: lengthAt(draw(), OUTPUT_TOKENS),
      blocks: [],
      ...(wish.ttftDeadlineMs === undefined ? {} : { ttftDeadlineMs: wish.ttftDeadlineMs }),
    }
  }
}

/** Between two quantiles the logarithm of the length goes evenly. */
function lengthAt(share: number, quantiles: readonly number[]): number {
  const above = SHARES.findIndex((one) => share < one)
  const [low, high] = [quantiles[above - 1] ?? 1, quantiles[above] ?? 1]
  const [from, to] = [SHARES[above - 1] ?? 0, SHARES[above] ?? 1]
  return Math.round(low * (high / low) ** ((share - from) / (to - from)))
}
