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
  /**
   * Pages up to here are known. As long as every step read all pages, nothing else need be: all of them are
   * expected to be read, and were in the last step.
   */
  end: number
  /** From the first step on that left something out. */
  mixed: Mixed | undefined
}

interface Mixed {
  readonly reads: number[]
  readonly mass: number[]
  /** Step of the last read. */
  readonly lastStep: number[]
}

export class PageHeat {
  private readonly leases = new Map<bigint, Pages>()

  /** The attention of `steps` steps, one unless said, read the pages from `firstPage` on; all of each where `use` is undefined. */
  record(counter: bigint, firstPage: number, pages: number, use: PageUse | undefined, steps = 1): void {
    const known = this.leases.get(counter) ?? { steps: 0, end: 0, mixed: undefined }
    this.leases.set(counter, known)
    if (use === undefined && known.mixed === undefined) {
      known.steps += steps
      known.end = Math.max(known.end, firstPage + pages)
      return
    }
    known.mixed ??= allRead(known, firstPage)
    for (let step = 0; step < steps; step += 1) recordMixed(known, known.mixed, firstPage, pages, use)
  }

  /** Of the pages of one lease, by their number. */
  of(counter: bigint): (page: number) => Heat {
    const known = this.leases.get(counter)
    if (known?.mixed === undefined) return () => UNSEEN
    const { steps, mixed } = known
    const { reads, mass, lastStep } = mixed
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

function recordMixed(
  known: Pages,
  { reads, mass, lastStep }: Mixed,
  firstPage: number,
  pages: number,
  use: PageUse | undefined,
): void {
  known.steps += 1
  for (let index = 0; index < pages; index += 1) {
    const page = firstPage + index
    const read = use === undefined ? 1 : (use.reads[index] ?? 0)
    reads[page] = average(reads[page], read)
    mass[page] = average(mass[page], use?.mass[index] ?? 0)
    // A page that was not there before was written in this step.
    if (read > 0 || lastStep[page] === undefined) lastStep[page] = known.steps
  }
}

/** What was known of pages of which all were read in every step; those before `firstPage` are not asked for any more. */
function allRead({ steps, end }: Pages, firstPage: number): Mixed {
  const mixed: Mixed = { reads: [], mass: [], lastStep: [] }
  for (let page = firstPage; page < end; page += 1) {
    mixed.reads[page] = 1
    mixed.mass[page] = 0
    mixed.lastStep[page] = steps
  }
  return mixed
}

function average(before: number | undefined, newest: number): number {
  return before === undefined ? newest : before + NEWEST_WEIGHT * (newest - before)
}
