/**
 * Requests that wait for a placement and hold nothing.
 *
 * Q1. Requests that had begun and lost their place come before those that have not
 *     begun, and within both kinds the order is that of arrival.
 * Q2. No request is let in while `newMax` wait that have not begun. One that comes back is
 *     always taken: having begun, refusing it would break a running stream; and those that
 *     a device refused before they began are no more than there are decode slots.
 */

export interface Waiting {
  readonly requestId: string
  /** Counts submissions. */
  readonly arrival: number
  readonly hasBegun: boolean
}

export class WaitQueue {
  readonly #newMax: number
  /** In the order of Q1. */
  #waiting: Waiting[] = []
  #newCount = 0

  constructor(newMax: number) {
    this.#newMax = newMax
  }

  get length(): number {
    return this.#waiting.length
  }

  get isFull(): boolean {
    return this.#newCount >= this.#newMax
  }

  add(waiting: Waiting): void {
    // From the back: almost every request goes there.
    let index = this.#waiting.length
    while (index > 0) {
      const before = this.#waiting[index - 1]
      if (before === undefined || isBefore(before, waiting)) break
      index -= 1
    }
    this.#waiting.splice(index, 0, waiting)
    if (!waiting.hasBegun) this.#newCount += 1
  }

  /** Takes out the requests that `takes` says yes to, asked in order. */
  sweep(takes: (waiting: Waiting) => boolean): void {
    const kept: Waiting[] = []
    for (const waiting of this.#waiting) {
      if (!takes(waiting)) kept.push(waiting)
      else if (!waiting.hasBegun) this.#newCount -= 1
    }
    this.#waiting = kept
  }

  remove(requestId: string): void {
    this.sweep((waiting) => waiting.requestId === requestId)
  }
}

function isBefore(a: Waiting, b: Waiting): boolean {
  return a.hasBegun === b.hasBegun ? a.arrival < b.arrival : a.hasBegun
}
