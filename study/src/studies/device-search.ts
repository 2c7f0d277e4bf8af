/**
 * Finds the cheapest counts of devices that meet an SLO. As long as more devices do no worse, one that meets it rules out all
 * that cost as much or more, one that fails all that have no more of any type. What is tried next is what rules out most in either
 * case. A slow device that is used because it is there can make a cluster worse, so from what is then the cheapest the search goes
 * on to those with one device less, or with one type alone, until none of them meets the SLO.
 */
import type { DeviceCounts } from './device-mix.js'

export interface Candidate {
  readonly counts: DeviceCounts
  readonly devices: number
  /** Infinite where a price is not known. */
  readonly dollars: number
}

/** All counts of the types up to `countMax` each, one device at least, cheapest first, then fewest devices. */
export function candidatesOf(
  types: readonly string[],
  countMax: number,
  priced: (counts: DeviceCounts) => number,
): readonly Candidate[] {
  const visit = (left: readonly string[], counts: DeviceCounts): DeviceCounts[] => {
    const [type, ...rest] = left
    if (type === undefined) return [counts]
    return Array.from({ length: countMax + 1 }, (_, count) =>
      visit(rest, { ...counts, [type]: count }),
    ).flat()
  }
  return visit(types, {})
    .map((counts): Candidate => {
      const devices = Object.values(counts).reduce((sum, count) => sum + count, 0)
      return { counts, devices, dollars: devices === 0 ? Number.POSITIVE_INFINITY : priced(counts) }
    })
    .filter(({ devices }) => devices > 0)
    .sort((a, b) => a.dollars - b.dollars || a.devices - b.devices)
}

export class DeviceSearch {
  #open: readonly Candidate[]
  #best: Candidate | undefined
  readonly #tried = new Set<Candidate>()

  constructor(private readonly candidates: readonly Candidate[]) {
    this.#open = candidates
  }

  /** The cheapest that met the SLO so far. */
  get best(): Candidate | undefined {
    return this.#best
  }

  get openCount(): number {
    return this.#open.length
  }

  /** What to try now, side by side; empty when all is known. */
  next(most: number): readonly Candidate[] {
    if (this.#open.length === 0) return this.#smaller().slice(0, most)
    const chosen: Candidate[] = []
    let open = this.#open
    while (chosen.length < most && open.length > 0) {
      const one = mostTelling(open)
      if (one === undefined) break
      chosen.push(one)
      // Those that go on are of use whichever way this one goes.
      open = open.filter((other) => other !== one && !isWithin(other, one) && !isBefore(one, other))
    }
    return chosen
  }

  tried(candidate: Candidate, meets: boolean): void {
    this.#tried.add(candidate)
    if (meets) {
      if (this.#best === undefined || isBefore(candidate, this.#best)) this.#best = candidate
      this.#open = this.#open.filter((other) => isBefore(other, candidate))
    } else {
      this.#open = this.#open.filter((other) => !isWithin(other, candidate))
    }
  }

  /** Cheaper than the best and next to it, not yet tried. */
  #smaller(): readonly Candidate[] {
    const best = this.#best
    if (best === undefined) return []
    return this.candidates.filter((one) => {
      if (this.#tried.has(one) || !isBefore(one, best)) return false
      return isWithin(one, best) && (one.devices === best.devices - 1 || isOneTypeOf(one, best))
    })
  }
}

/** All of one type that the other has, and nothing else. */
function isOneTypeOf(one: Candidate, other: Candidate): boolean {
  const types = Object.entries(one.counts).filter(([, count]) => count > 0)
  return types.length === 1 && types.every(([type, count]) => count === other.counts[type])
}

function mostTelling(open: readonly Candidate[]): Candidate | undefined {
  let best: Candidate | undefined
  let bestOut = -1
  // Of very many, some: whichever is tried, the answer is the same.
  const stride = Math.ceil(open.length / 1_000)
  open.forEach((one, index) => {
    if (index % stride !== 0) return
    const within = open.reduce((count, other) => count + (isWithin(other, one) ? 1 : 0), 0)
    const out = Math.min(open.length - index, within)
    if (out > bestOut) [best, bestOut] = [one, out]
  })
  return best
}

/** Cheaper, or as cheap with fewer devices. */
function isBefore(a: Candidate, b: Candidate): boolean {
  return a.dollars < b.dollars || (a.dollars === b.dollars && a.devices < b.devices)
}

/** No more of any type. */
function isWithin(a: Candidate, b: Candidate): boolean {
  return Object.entries(a.counts).every(([type, count]) => count <= (b.counts[type] ?? 0))
}
