/**
 * Who holds a block, as sets of which each is kept once however many blocks share it: the blocks of
 * a prompt are mostly on the same devices, so a run of them is followed by comparing numbers.
 *
 * A set is immutable. It lives while blocks refer to it (`retain`, `release`); its number is used again after.
 */

/** Tiers told apart; a device has a handful. */
export const TIERS_MAX = 16

export interface HolderSet {
  /** At least 1: 0 stands for nobody. */
  readonly id: number
  /** Ascending. */
  readonly holders: readonly number[]
  /** Tier of each holder, by position in `holders`. */
  readonly tiers: readonly number[]
  /** Sum over the members, so that a set with one more or less needs no pass over all. */
  readonly sum: number
  /** Blocks that refer to it. */
  blocks: number
}

interface Change {
  readonly from: HolderSet | undefined
  readonly holder: number
  readonly tier: number
  readonly to: HolderSet
}

export class HolderSets {
  /** By number. */
  readonly #sets: (HolderSet | undefined)[] = [undefined]
  readonly #freeIds: number[] = []
  readonly #bySum = new Map<number, HolderSet[]>()
  /** The last addition and removal: a run of blocks comes from one set and goes to another. */
  #added: Change | undefined
  #removed: Change | undefined

  get(id: number): HolderSet | undefined {
    return this.#sets[id]
  }

  /** The set with a holder more, or with another tier of it. Retain what is kept. */
  with(set: HolderSet | undefined, holder: number, tier: number): HolderSet {
    const last = this.#added
    if (last !== undefined && last.from === set && last.holder === holder && last.tier === tier) {
      if (last.to.blocks > 0) return last.to
    }
    const to = this.#with(set, holder, tier)
    this.#added = { from: set, holder, tier, to }
    return to
  }

  /** The set without a holder; undefined where nobody is left. */
  without(set: HolderSet, holder: number): HolderSet | undefined {
    const last = this.#removed
    if (last?.from === set && last.holder === holder && last.to.blocks > 0) return last.to
    const index = set.holders.indexOf(holder)
    if (index < 0) return set
    if (set.holders.length === 1) return undefined
    const sum = set.sum - memberValue(holder, set.tiers[index] ?? 0)
    const to = this.#intern(set.holders.toSpliced(index, 1), set.tiers.toSpliced(index, 1), sum)
    this.#removed = { from: set, holder, tier: 0, to }
    return to
  }

  retain(set: HolderSet): void {
    set.blocks += 1
  }

  release(set: HolderSet): void {
    set.blocks -= 1
    if (set.blocks > 0) return
    const alike = this.#bySum.get(set.sum)?.filter((other) => other !== set) ?? []
    if (alike.length > 0) this.#bySum.set(set.sum, alike)
    else this.#bySum.delete(set.sum)
    this.#sets[set.id] = undefined
    this.#freeIds.push(set.id)
  }

  #with(set: HolderSet | undefined, holder: number, tier: number): HolderSet {
    if (!set) return this.#intern([holder], [tier], memberValue(holder, tier))
    const { holders, tiers, sum } = set
    const index = holders.indexOf(holder)
    if (index >= 0) {
      const before = tiers[index] ?? 0
      if (before === tier) return set
      return this.#intern(
        holders,
        tiers.with(index, tier),
        sum - memberValue(holder, before) + memberValue(holder, tier),
      )
    }
    const after = holders.findIndex((other) => other > holder)
    const at = after < 0 ? holders.length : after
    return this.#intern(
      holders.toSpliced(at, 0, holder),
      tiers.toSpliced(at, 0, tier),
      sum + memberValue(holder, tier),
    )
  }

  #intern(holders: readonly number[], tiers: readonly number[], sum: number): HolderSet {
    const alike = this.#bySum.get(sum)
    const known = alike?.find((set) => isSame(set.holders, holders) && isSame(set.tiers, tiers))
    if (known) return known
    const set = { id: this.#freeIds.pop() ?? this.#sets.length, holders, tiers, sum, blocks: 0 }
    this.#sets[set.id] = set
    if (alike) alike.push(set)
    else this.#bySum.set(sum, [set])
    return set
  }
}

/** Spread over 40 bits: sums of some thousands of them are whole numbers. */
function memberValue(holder: number, tier: number): number {
  const member = holder * TIERS_MAX + tier + 1
  return (Math.imul(member, 0x9e3779b1) >>> 0) * 256 + (Math.imul(member, 0x85ebca6b) >>> 24)
}

function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, index) => value === b[index])
}
