/**
 * Who holds a block, as sets of which each is kept once however many blocks share it: the blocks of
 * a prompt are mostly on the same devices, so a run of them is followed by comparing references.
 *
 * A set is immutable. It lives while blocks refer to it (`retain`, `release`).
 */

/** Tiers told apart; a device has a handful. */
export const TIERS_MAX = 16

export interface HolderSet {
  /** Ascending. */
  readonly holders: readonly number[]
  /** Tier of each holder, by position in `holders`. */
  readonly tiers: readonly number[]
  readonly key: string
  /** Blocks that refer to it. */
  blocks: number
}

export class HolderSets {
  readonly #sets = new Map<string, HolderSet>()
  /** The last addition: a run of blocks comes from one set and goes to another. */
  #last: { from: HolderSet | undefined; holder: number; tier: number; to: HolderSet } | undefined

  /** The set with a holder more, or with another tier of it. Retain what is kept. */
  with(set: HolderSet | undefined, holder: number, tier: number): HolderSet {
    const last = this.#last
    if (last?.from === set && last?.holder === holder && last.tier === tier && last.to.blocks > 0) {
      return last.to
    }
    const to = this.#with(set, holder, tier)
    this.#last = { from: set, holder, tier, to }
    return to
  }

  /** The set without a holder; undefined where nobody is left. */
  without(set: HolderSet, holder: number): HolderSet | undefined {
    const index = set.holders.indexOf(holder)
    if (index < 0) return set
    if (set.holders.length === 1) return undefined
    return this.#intern(set.holders.toSpliced(index, 1), set.tiers.toSpliced(index, 1))
  }

  retain(set: HolderSet): void {
    set.blocks += 1
    if (set.blocks === 1) this.#sets.set(set.key, set)
  }

  release(set: HolderSet): void {
    set.blocks -= 1
    if (set.blocks === 0) this.#sets.delete(set.key)
  }

  #with(set: HolderSet | undefined, holder: number, tier: number): HolderSet {
    if (!set) return this.#intern([holder], [tier])
    const index = set.holders.indexOf(holder)
    if (index >= 0) {
      return set.tiers[index] === tier ? set : this.#intern(set.holders, set.tiers.with(index, tier))
    }
    const after = set.holders.findIndex((other) => other > holder)
    const at = after < 0 ? set.holders.length : after
    return this.#intern(set.holders.toSpliced(at, 0, holder), set.tiers.toSpliced(at, 0, tier))
  }

  #intern(holders: readonly number[], tiers: readonly number[]): HolderSet {
    const key = holders.map((holder, index) => holder * TIERS_MAX + (tiers[index] ?? 0)).join()
    return this.#sets.get(key) ?? { holders, tiers, key, blocks: 0 }
  }
}
