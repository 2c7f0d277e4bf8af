/**
 * An order of small integers by last use, in two integer arrays: a use, an addition and a removal take
 * a few writes and allocate nothing.
 */
const NONE = -1

export class RecencyList {
  /** Neighbour that was used next, and the one before, by slot. */
  #newer = new Int32Array(1_024).fill(NONE)
  #older = new Int32Array(1_024).fill(NONE)
  #newest = NONE
  #oldest = NONE

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
}

function grown(array: Int32Array<ArrayBuffer>, slot: number): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(Math.max(2 * array.length, slot + 1)).fill(NONE)
  larger.set(array)
  return larger
}
