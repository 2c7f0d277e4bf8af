/**
 * Values of which percentiles are asked: all of them up to a bound, then every second, every fourth and so on, so that the memory
 * of a long run has a bound and what is kept is the same each time.
 */
export class KeptValues {
  #values: number[] = []
  #every = 1
  #seen = 0
  #sum = 0

  constructor(private readonly keptMax: number) {}

  add(value: number): void {
    this.#sum += value
    if (this.#seen % this.#every === 0) {
      this.#values.push(value)
      if (this.#values.length >= this.keptMax) {
        this.#values = this.#values.filter((_, index) => index % 2 === 0)
        this.#every *= 2
      }
    }
    this.#seen += 1
  }

  get count(): number {
    return this.#seen
  }

  /** NaN of none. */
  get mean(): number {
    return this.#sum / this.#seen
  }

  /** The least value that so large a share has at most; NaN of none. */
  percentiles(shares: readonly number[]): number[] {
    const sorted = Float64Array.from(this.#values).sort()
    return shares.map((share) => {
      return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
    })
  }
}
