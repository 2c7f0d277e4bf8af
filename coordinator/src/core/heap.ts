/**
 * A binary heap whose items know their place in it, so that any of them can leave or move in logarithmic time. An item
 * may be in several heaps at once, in each under another slot of its `places`.
 */
export interface Heaped {
  /** By slot; -1 where it is in no heap. */
  readonly places: number[]
}

export class Heap<T extends Heaped> {
  readonly #items: T[] = []
  readonly #slot: number
  readonly #isBefore: (a: T, b: T) => boolean

  constructor(slot: number, isBefore: (a: T, b: T) => boolean) {
    this.#slot = slot
    this.#isBefore = isBefore
  }

  get length(): number {
    return this.#items.length
  }

  get first(): T | undefined {
    return this.#items[0]
  }

  add(item: T): void {
    this.#items.push(item)
    this.#rise(item, this.#items.length - 1)
  }

  /** Nothing happens where it is not in the heap. */
  remove(item: T): void {
    const at = item.places[this.#slot] ?? -1
    if (at < 0) return
    item.places[this.#slot] = -1
    const last = this.#items.pop()
    if (last && last !== item) this.#settle(last, at)
  }

  /** What it is ordered by has changed. */
  moved(item: T): void {
    const at = item.places[this.#slot] ?? -1
    if (at >= 0) this.#settle(item, at)
  }

  #settle(item: T, at: number): void {
    const above = this.#items[(at - 1) >> 1]
    if (at > 0 && above && this.#isBefore(item, above)) this.#rise(item, at)
    else this.#sink(item, at)
  }

  #rise(item: T, from: number): void {
    let at = from
    while (at > 0) {
      const parent = (at - 1) >> 1
      const above = this.#items[parent]
      if (!above || !this.#isBefore(item, above)) break
      this.#put(above, at)
      at = parent
    }
    this.#put(item, at)
  }

  #sink(item: T, from: number): void {
    let at = from
    for (;;) {
      let child = 2 * at + 1
      let below = this.#items[child]
      const right = this.#items[child + 1]
      if (below && right && this.#isBefore(right, below)) {
        child += 1
        below = right
      }
      if (!below || !this.#isBefore(below, item)) break
      this.#put(below, at)
      at = child
    }
    this.#put(item, at)
  }

  #put(item: T, at: number): void {
    this.#items[at] = item
    item.places[this.#slot] = at
  }
}
