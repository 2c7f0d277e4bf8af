/**
 * The few best of many, in order: by ascending score, of equal ones the first that was added.
 */
export class BestFew<T> {
  readonly #max: number
  readonly #items: T[] = []
  readonly #scores: number[] = []

  constructor(max: number) {
    this.#max = max
  }

  add(item: T, score: number): void {
    const scores = this.#scores
    let at = scores.length
    if (at === this.#max && !(score < (scores[at - 1] ?? Number.POSITIVE_INFINITY))) return
    while (at > 0 && score < (scores[at - 1] ?? Number.NEGATIVE_INFINITY)) at -= 1
    scores.splice(at, 0, score)
    this.#items.splice(at, 0, item)
    if (scores.length <= this.#max) return
    scores.pop()
    this.#items.pop()
  }

  /** Best first. */
  get items(): readonly T[] {
    return this.#items
  }
}
