/**
 * Time as an input, so that tests and the pure cores' shells can replace it.
 */

export interface Clock {
  /** Monotonic milliseconds since an arbitrary start; fractions are kept. For durations and deadlines. */
  nowMs(): number
  /** Milliseconds since 1970, which may jump. For showing and for correlating with other machines. */
  wallMs(): number
}

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
}
