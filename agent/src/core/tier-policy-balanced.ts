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
import { firstFew } from './page-selection.js'
import type { TierMove, TierPage, TierState } from './tier-policy.js'

/** Steps within which a move must have paid for itself. */
const HORIZON_STEPS = 16
/** Of sums of reads: a page that makes two tiers equal is not too hot. */
const ROUNDING = 1e-6

/** Pages of one tier that may be moved, the hottest that are read at most `readsMax` times first. */
interface Hot {
  readonly readsMax: number
  /** The least reads of those that are read more often; infinite where none are. */
  readonly tooHot: number
  /** Few, or all that there are. */
  readonly few: number[]
  readonly areAll: boolean
}

export function balanced(state: TierState): TierMove[] {
  const { bytesPerSecond } = state
  if (bytesPerSecond.length < 2 || bytesPerSecond.some((rate) => !(rate > 0))) return []
  return new Balance(state).moves()
}

class Balance {
  /** Seconds that each tier is busy with the reads of a step, unexpected ones of farther tiers included. */
  private readonly busy: number[]
  private readonly free: number[]
  /** Of each tier, the pages that may be moved. */
  private readonly movable: number[][]
  private readonly moved = new Set<number>()
  /** Of each tier; worked out when they are first needed. */
  private readonly hot: Hot[] = []
  private readonly cold: number[][] = []

  constructor(private readonly state: TierState) {
    const { pages, free, bytesPerSecond } = state
    this.free = [...free]
    this.busy = bytesPerSecond.map(() => 0)
    this.movable = bytesPerSecond.map(() => [])
    const variances = bytesPerSecond.map(() => 0)
    for (let index = 0; index < pages.length; index += 1) {
      const { tier, reads, fixed } = this.page(index)
      this.busy[tier] = (this.busy[tier] ?? 0) + this.seconds(reads, tier)
      variances[tier] = (variances[tier] ?? 0) + Math.max(0, reads * (1 - reads))
      if (!fixed) this.movable[tier]?.push(index)
    }
    for (const [tier, variance] of variances.entries()) {
      if (tier > 0) this.busy[tier] = (this.busy[tier] ?? 0) + this.seconds(Math.sqrt(variance), tier)
    }
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
    if (from === to) return undefined
    const room = (this.free[to] ?? 0) > 0
    const exchanged = room ? undefined : this.coldest(to)
    if (!room && (exchanged === undefined || (this.free[from] ?? 0) === 0)) return undefined
    const colder = exchanged === undefined ? 0 : this.page(exchanged).reads
    const page = this.hottest(from, this.readsToBalance(from, to) + colder + ROUNDING)
    if (page === undefined) return undefined
    const reads = this.page(page).reads - colder
    if (!this.pays(from, to, reads, room ? 1 : 2)) return undefined
    this.busy[from] = (this.busy[from] ?? 0) - this.seconds(reads, from)
    this.busy[to] = (this.busy[to] ?? 0) + this.seconds(reads, to)
    this.moved.add(page)
    if (exchanged === undefined) {
      this.free[from] = (this.free[from] ?? 0) + 1
      this.free[to] = (this.free[to] ?? 0) - 1
      return [{ page, to }]
    }
    this.moved.add(exchanged)
    return [
      { page: exchanged, to: from },
      { page, to },
    ]
  }

  /** The hottest page of a tier that is read at most so often: one above would turn the imbalance round. */
  private hottest(tier: number, readsMax: number): number | undefined {
    let hot = this.hot[tier]
    // What was too hot may not be any more, and what was hot enough may have been used up.
    if (hot === undefined || readsMax >= hot.tooHot) hot = this.findHot(tier, readsMax)
    for (;;) {
      const { few } = hot
      const from = few.findIndex((index) => this.page(index).reads <= readsMax && !this.moved.has(index))
      if (from >= 0) return few[from]
      if (hot.areAll || hot.readsMax === readsMax) return undefined
      hot = this.findHot(tier, readsMax)
    }
  }

  private findHot(tier: number, readsMax: number): Hot {
    let tooHot = Number.POSITIVE_INFINITY
    const right: number[] = []
    const noneMoved = this.moved.size === 0
    for (const index of this.movable[tier] ?? []) {
      if (!noneMoved && this.moved.has(index)) continue
      const { reads } = this.page(index)
      if (reads <= readsMax) right.push(index)
      else if (reads < tooHot) tooHot = reads
    }
    const { movesMax } = this.state
    const few = firstFew(right, movesMax, (a, b) => -hotter(this.page(a), this.page(b)))
    const hot = { readsMax, tooHot, few, areAll: few.length === right.length }
    this.hot[tier] = hot
    return hot
  }

  private coldest(tier: number): number | undefined {
    const { movesMax } = this.state
    // Few are moved, so that some of these are left.
    this.cold[tier] ??= firstFew(this.movable[tier] ?? [], movesMax + 1, (a, b) =>
      hotter(this.page(a), this.page(b)),
    )
    return this.cold[tier].find((index) => !this.moved.has(index))
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

  private page(index: number): TierPage {
    return this.state.pages[index] as TierPage
  }
}

/** Above 0 where `a` is. */
function hotter(a: TierPage, b: TierPage): number {
  return a.reads - b.reads || a.mass - b.mass || b.idleSteps - a.idleSteps
}

function indexOfLargest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values))
}
