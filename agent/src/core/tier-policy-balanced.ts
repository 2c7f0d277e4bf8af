/**
 * Reads from all tiers in proportion to their bandwidth.
 *
 * With all tiers read at once, a step's attention is fastest when every tier is busy equally long:
 * the nearest serves the share α* = B_near ÷ (B_near + B_far) of the bytes read (Fang et al., arXiv
 * 2508.13231), not all of them. So this takes the tier that is busy longest and moves pages from it
 * to the one that is busy least, as long as that makes the step shorter by enough:
 *
 *   (step time before − step time after) · HORIZON_STEPS ≥ bytes moved ÷ bandwidth, in both tiers.
 *
 * A page goes to a free block; where there is none it is exchanged for the coldest page there,
 * which costs twice. Pages are taken hottest first and never beyond the balance. What was
 * read is only a guess at what will be read, and the horizon is short, so a page whose heat is
 * little above another's stays where it is: nothing moves to and fro. Farther tiers are given
 * time for one standard deviation of their reads more, √Σ r·(1 − r), since what is read there against
 * expectation takes longer than in the nearest. With dense attention all pages are read equally and
 * surely; once the shares are right within one page, nothing moves at all.
 */
import type { TierMove, TierPage, TierState } from './tier-policy.js'

/** Steps within which a move must have paid for itself. */
const HORIZON_STEPS = 16
/** Of sums of reads: a page that makes two tiers equal is not too hot. */
const ROUNDING = 1e-6

export function balanced(state: TierState): TierMove[] {
  const { bytesPerSecond } = state
  if (bytesPerSecond.length < 2 || bytesPerSecond.some((rate) => !(rate > 0))) return []
  return new Balance(state).moves()
}

/** Movable pages of one tier in order of heat. */
interface Shelf {
  readonly hottestFirst: readonly number[]
  /** The next to give; those before it are gone or too hot. */
  hottest: number
  /** The next to give in exchange, from the end. */
  coldest: number
}

class Balance {
  /** Seconds that each tier is busy with the reads of a step, unexpected ones of farther tiers included. */
  private readonly busy: number[]
  private readonly free: number[]
  private readonly shelves: Shelf[]

  constructor(private readonly state: TierState) {
    const { pages, free, bytesPerSecond } = state
    this.free = [...free]
    this.busy = bytesPerSecond.map(() => 0)
    const variances = bytesPerSecond.map(() => 0)
    const indices = bytesPerSecond.map((): number[] => [])
    for (const [index, { tier, reads, fixed }] of pages.entries()) {
      this.busy[tier] = (this.busy[tier] ?? 0) + this.seconds(reads, tier)
      variances[tier] = (variances[tier] ?? 0) + Math.max(0, reads * (1 - reads))
      if (!fixed) indices[tier]?.push(index)
    }
    for (const [tier, variance] of variances.entries()) {
      if (tier > 0) this.busy[tier] = (this.busy[tier] ?? 0) + this.seconds(Math.sqrt(variance), tier)
    }
    this.shelves = indices.map((own) => {
      const hottestFirst = own.sort((a, b) => byHeat(this.page(a), this.page(b)))
      return { hottestFirst, hottest: 0, coldest: own.length - 1 }
    })
  }

  moves(): TierMove[] {
    const moves: TierMove[] = []
    for (;;) {
      const next = this.next()
      if (next === undefined || moves.length + next.length > this.state.movesMax) return moves
      moves.push(...next)
    }
  }

  /** One page, or two that change places; undefined where no more pays. */
  private next(): TierMove[] | undefined {
    const from = indexOfLargest(this.busy)
    const to = indexOfLargest(this.busy.map((seconds) => -seconds))
    const shelf = this.shelves[from]
    const others = this.shelves[to]
    if (from === to || shelf === undefined || others === undefined) return undefined
    const exchanged = (this.free[to] ?? 0) > 0 ? undefined : others.hottestFirst[others.coldest]
    if ((this.free[to] ?? 0) === 0 && (exchanged === undefined || (this.free[from] ?? 0) === 0))
      return undefined
    const colder = exchanged === undefined ? 0 : this.page(exchanged).reads
    // The hottest page that does not turn the imbalance round.
    const most = this.readsToBalance(from, to) + colder + ROUNDING
    while (shelf.hottest <= shelf.coldest && this.hottest(shelf) > most) shelf.hottest += 1
    const page = shelf.hottestFirst[shelf.hottest]
    if (shelf.hottest > shelf.coldest || page === undefined) return undefined
    const reads = this.page(page).reads - colder
    const blocks = exchanged === undefined ? 1 : 2
    if (!this.pays(from, to, reads, blocks)) return undefined
    this.busy[from] = (this.busy[from] ?? 0) - this.seconds(reads, from)
    this.busy[to] = (this.busy[to] ?? 0) + this.seconds(reads, to)
    shelf.hottest += 1
    if (exchanged === undefined) {
      this.free[from] = (this.free[from] ?? 0) + 1
      this.free[to] = (this.free[to] ?? 0) - 1
      return [{ page, to }]
    }
    others.coldest -= 1
    return [
      { page: exchanged, to: from },
      { page, to },
    ]
  }

  /** Reads whose move from one tier to the other makes both busy equally long. */
  private readsToBalance(from: number, to: number): number {
    const ahead = (this.busy[from] ?? 0) - (this.busy[to] ?? 0)
    return ahead / (this.seconds(1, from) + this.seconds(1, to))
  }

  private pays(from: number, to: number, reads: number, blocks: number): boolean {
    const before = Math.max(...this.busy)
    const after = Math.max(
      ...this.busy.map((seconds, tier) => {
        if (tier === from) return seconds - this.seconds(reads, from)
        return tier === to ? seconds + this.seconds(reads, to) : seconds
      }),
    )
    const costSeconds = blocks * (this.seconds(1, from) + this.seconds(1, to))
    return (before - after) * HORIZON_STEPS >= costSeconds
  }

  private seconds(reads: number, tier: number): number {
    return (reads * this.state.blockBytes) / (this.state.bytesPerSecond[tier] ?? 0)
  }

  private hottest(shelf: Shelf): number {
    return this.page(shelf.hottestFirst[shelf.hottest] ?? 0).reads
  }

  private page(index: number): TierPage {
    return this.state.pages[index] as TierPage
  }
}

function byHeat(a: TierPage, b: TierPage): number {
  return b.reads - a.reads || b.mass - a.mass || a.idleSteps - b.idleSteps
}

function indexOfLargest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values))
}
