/**
 * Measured times as a line over predicted ones: an overhead that every request has, and a factor by which the cost model
 * is wrong. What came last counts most.
 *
 * Short requests tell of the overhead and long ones of the factor: where only short ones were seen they must not make
 * long ones seem hopeless. So it is a regression with a prior (normal, conjugate): no overhead but for OVERHEAD_MS, no
 * error but for a factor of about 2, and each measurement good to a tenth.
 */
const OVERHEAD_MS = 50
const FACTOR_SPREAD = 1
const NOISE_SHARE = 0.1
const NOISE_MIN_MS = 5
const RATIO_MIN = 0.05
const RATIO_MAX = 20
/** Share of what is known that one more measurement leaves; less where the one before it was long ago. */
const KEPT = 0.95
const KEPT_MIN = 0.3
const KEPT_FOR_MS = 3_000

export class OverheadLine {
  #overheadMs = 0
  #ratio = 1
  /** Sums over measurements by their certainty. */
  #weights = 0
  #x = 0
  #xx = 0
  #y = 0
  #xy = 0

  get ratio(): number {
    return this.#ratio
  }

  at(predictedMs: number): number {
    return this.#overheadMs + this.#ratio * predictedMs
  }

  /** `agoMs`: since the measurement before. */
  add(predictedMs: number, measuredMs: number, agoMs: number): void {
    const kept = Math.max(KEPT_MIN, KEPT * Math.exp(-agoMs / KEPT_FOR_MS))
    const weight = 1 / Math.max(NOISE_MIN_MS, NOISE_SHARE * measuredMs) ** 2
    this.#weights = this.#weights * kept + weight
    this.#x = this.#x * kept + weight * predictedMs
    this.#xx = this.#xx * kept + weight * predictedMs * predictedMs
    this.#y = this.#y * kept + weight * measuredMs
    this.#xy = this.#xy * kept + weight * predictedMs * measuredMs
    this.#fit()
  }

  #fit(): void {
    const factorCertainty = 1 / FACTOR_SPREAD ** 2
    const aa = this.#weights + 1 / OVERHEAD_MS ** 2
    const bb = this.#xx + factorCertainty
    const xy = this.#xy + factorCertainty
    const determinant = aa * bb - this.#x * this.#x
    this.#overheadMs = Math.max(0, (this.#y * bb - this.#x * xy) / determinant)
    // The best factor for that overhead.
    this.#ratio = Math.min(RATIO_MAX, Math.max(RATIO_MIN, (xy - this.#x * this.#overheadMs) / bb))
  }
}
