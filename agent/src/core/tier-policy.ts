/**
 * Which pages sit in which memory tier while sequences decode, and what moves between steps.
 *
 * A policy is a pure function of what is known between two steps: the pages with their tier and
 * the reads expected of them, free blocks, bandwidths. It keeps nothing between calls. So the same
 * code serves a device and a study in virtual time: the caller keeps the pages and their heat
 * (`PageHeat`), asks `plan`, carries the moves out, and charges each as one read of the block in
 * the tier it leaves and one write in the tier it goes to.
 *
 * The model is that of Fang et al. (arXiv 2508.13231): all tiers are read at once, so that a step's
 * attention takes max over tiers of bytes read ÷ bandwidth, and a page that is moved is traffic
 * in both tiers. Unlike theirs, tiers are exclusive: a page is in one place, and giving the
 * near tier's room up costs a copy.
 */
export interface TierPage {
  /** Tier it is in; 0 is the nearest. */
  readonly tier: number
  /** Expected reads of the whole page a step: an exponentially weighted mean of shares read, summed over the sequences that share it. */
  readonly reads: number
  /** Expected attention weight; decides only between pages of equal reads. */
  readonly mass: number
  /** Steps since it was last read; 0: in the last step. */
  readonly idleSteps: number
  /** In use by more than attention: counts as traffic, cannot be moved now. */
  readonly fixed: boolean
}

export interface TierState {
  readonly pages: readonly TierPage[]
  /** Blocks of each tier that a page may be moved to, nearest tier first. */
  readonly free: readonly number[]
  /** Read bandwidth of each tier. */
  readonly bytesPerSecond: readonly number[]
  readonly blockBytes: number
  /** Most moves between two steps. */
  readonly movesMax: number
}

export interface TierMove {
  /** Index in `pages`. */
  readonly page: number
  /** The tier it goes to. */
  readonly to: number
}

/** In the order in which they are to be made: each has a free block in its tier when its turn comes. */
export type TierPolicy = (state: TierState) => TierMove[]
