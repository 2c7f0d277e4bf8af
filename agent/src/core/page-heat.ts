/**
 * What attention reads of each page of each sequence: the reads that may be expected of the next step.
 *
 * The mean weighs a step by how recent it is. A page that was never looked at is expected to be read:
 * right after prefill nothing else is known, and the newest page always is read.
 */
import type { PageUse } from './events.js'

/** Weight of the newest step. */
const NEWEST_WEIGHT = 0.25

/** As of TierPage. */
export interface Heat {
  readonly reads: number
  readonly mass: number
  readonly idleSteps: number
}

const UNSEEN: Heat = { reads: 1, mass: 0, idleSteps: 0 }

interface Pages {
  /** Steps that were recorded. */
  steps: number
  readonly reads: number[]
  readonly mass: number[]
  /** Step of the last read. */
  readonly lastStep: number[]
}

export class PageHeat {
  private readonly leases = new Map<bigint, Pages>()

  /** One step's attention read the pages from `firstPage` on; all of each where `use` is undefined. */
  record(counter: bigint, firstPage: number, pages: number, use: PageUse | undefined): void {
    const known = this.leases.get(counter) ?? { steps: 0, reads: [], mass: [], lastStep: [] }
    this.leases.set(counter, known)
    known.steps += 1
    for (let index = 0; index < pages; index += 1) {
      const page = firstPage + index
      const reads = use === undefined ? 1 : (use.reads[index] ?? 0)
      known.reads[page] = average(known.reads[page], reads)
      known.mass[page] = average(known.mass[page], use?.mass[index] ?? 0)
      // A page that was not there before was written in this step.
      if (reads > 0 || known.lastStep[page] === undefined) known.lastStep[page] = known.steps
    }
  }

  /** Of the pages of one lease, by their number. */
  of(counter: bigint): (page: number) => Heat {
    const known = this.leases.get(counter)
    if (known === undefined) return () => UNSEEN
    const { steps, reads, mass, lastStep } = known
    return (page) => {
      const expected = reads[page]
      if (expected === undefined) return UNSEEN
      return { reads: expected, mass: mass[page] ?? 0, idleSteps: steps - (lastStep[page] ?? 0) }
    }
  }

  /** The lease has ended. */
  forget(counter: bigint): void {
    this.leases.delete(counter)
  }
}

function average(before: number | undefined, newest: number): number {
  return before === undefined ? newest : before + NEWEST_WEIGHT * (newest - before)
}
