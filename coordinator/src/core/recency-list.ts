/**
 * An order of small integers by last use, in two integer arrays: a use, an addition and a removal take
 * a few writes and allocate nothing. Slots that were used in one order before are used in it again with a read each.
 */
const NONE = -1

export class RecencyList {
  /** Neighbour that was used next, and the one before, by slot. */
  #newer = new Int32Array(1_024).fill(NONE)
  #older = new Int32Array(1_024).fill(NONE)
  #newest = NONE
  #oldest = NONE
  /** Slots used one after the other that lie next to each other: they are moved together when the run ends. */
  #runFirst = NONE
  #runLast = NONE

  /** Used least recently; undefined where the list is empty. */
  get oldest(): number | undefined {
    return this.#oldest === NONE ? undefined : this.#oldest
  }

  /** Adds a slot that is not in the list, as the newest. */
  add(slot: number): void {
    if (slot >= this.#newer.length) {
      this.#newer = grown(this.#newer, slot)
      this.#older = grown(this.#older, slot)
    }
    this.#newer[slot] = NONE
    this.#older[slot] = this.#newest
    if (this.#newest === NONE) this.#oldest = slot
    else this.#newer[this.#newest] = slot
    this.#newest = slot
  }

  remove(slot: number): void {
    const newer = this.#newer[slot] ?? NONE
    const older = this.#older[slot] ?? NONE
    if (newer === NONE) this.#newest = older
    else this.#older[newer] = older
    if (older === NONE) this.#oldest = newer
    else this.#newer[older] = newer
  }

  use(slot: number): void {
    if (slot === this.#newest) return
    this.remove(slot)
    this.add(slot)
  }

  /** As `use`, for one of many slots; it takes effect with the next one, and `endRun` ends them. */
  useNext(slot: number): void {
    const last = this.#runLast
    if (last !== NONE && this.#newer[last] === slot) {
      this.#runLast = slot
      return
    }
    this.endRun()
    this.#runFirst = slot
    this.#runLast = slot
  }

  endRun(): void {
    const [first, last] = [this.#runFirst, this.#runLast]
    this.#runFirst = NONE
    this.#runLast = NONE
    if (last === NONE || last === this.#newest) return
    const newer = this.#newer[last] ?? NONE
    const older = this.#older[first] ?? NONE
    this.#older[newer] = older
    if (older === NONE) this.#oldest = newer
    else this.#newer[older] = newer
    this.#older[first] = this.#newest
    this.#newer[this.#newest] = first
    this.#newer[last] = NONE
    this.#newest = last
  }
}

function grown(array: Int32Array<ArrayBuffer>, slot: number): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(Math.max(2 * array.length, slot + 1)).fill(NONE)
  larger.set(array)
  return larger
}
