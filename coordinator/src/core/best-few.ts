/**
 * The few best of many: by ascending score, and of equal ones by ascending order, whichever way they come.
 */
export class BestFew<T> {
  readonly #max: number
  readonly #items: T[] = []
  readonly #scores: number[] = []
  readonly #orders: number[] = []
  /** Nothing with a higher score would be kept. */
  limit = Number.POSITIVE_INFINITY

  constructor(max: number) {
    this.#max = max
  }

  /** Whether an item would be kept, so that it is worth making. */
  isWanted(score: number, order: number): boolean {
    const { length } = this.#scores
    return length < this.#max || this.#isBefore(score, order, length - 1)
  }

  add(item: T, score: number, order: number): void {
    if (!this.isWanted(score, order)) return
    const [items, scores, orders] = [this.#items, this.#scores, this.#orders]
    // By hand: splice makes an array of what it takes out, even where that is nothing.
    let at = scores.length < this.#max ? scores.length : scores.length - 1
    for (; at > 0 && this.#isBefore(score, order, at - 1); at -= 1) {
      items[at] = items[at - 1] ?? item
      scores[at] = scores[at - 1] ?? score
      orders[at] = orders[at - 1] ?? order
    }
    items[at] = item
    scores[at] = score
    orders[at] = order
    if (scores.length === this.#max) this.limit = scores[this.#max - 1] ?? score
  }

  /** Best first. */
  get items(): readonly T[] {
    return this.#items
  }

  #isBefore(score: number, order: number, at: number): boolean {
    const other = this.#scores[at] ?? Number.POSITIVE_INFINITY
    return score === other ? order < (this.#orders[at] ?? 0) : score < other
  }
}
