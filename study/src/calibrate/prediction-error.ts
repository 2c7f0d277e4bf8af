/** How far predictions are from what was measured: |predicted - measured| / measured. */
import type { Observation } from './observations.js'

/** Of one prediction, milliseconds. */
export type Predict = (observation: Observation) => number

export interface PredictionError {
  readonly records: number
  readonly median: number
  readonly p90: number
}

/** Null of no observations. */
export function predictionError(
  observations: readonly Observation[],
  predict: Predict,
): PredictionError | null {
  return errorOf(observations.map((one) => Math.abs(predict(one) - one.measuredMs) / one.measuredMs))
}

/** Of relative errors; null of none. */
export function errorOf(errors: readonly number[]): PredictionError | null {
  if (errors.length === 0) return null
  const sorted = [...errors].sort((a, b) => a - b)
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? 0
  return { records: errors.length, median: at(0.5), p90: at(0.9) }
}
