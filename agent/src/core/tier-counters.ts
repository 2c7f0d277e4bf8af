/** What happens in each memory tier of a device, counted since its core began. */
import type { TierOptions } from './core-options.js'
import type { TierLoad } from './events.js'

/** As of TierLoad. */
interface Counts {
  lookups: number
  hits: number
  readBytes: number
  inBlocks: number
  outBlocks: number
  droppedBlocks: number
}

const NOTHING: Counts = { lookups: 0, hits: 0, readBytes: 0, inBlocks: 0, outBlocks: 0, droppedBlocks: 0 }

export class TierCounters {
  private readonly counts: readonly Counts[]

  constructor(private readonly tiers: readonly TierOptions[]) {
    this.counts = tiers.map(() => ({ ...NOTHING }))
  }

  /** `blocks` were looked for; `hits`: how many of them were found in each tier. */
  looked(blocks: number, hits: readonly number[]): void {
    let missing = blocks
    for (const [tier, counts] of this.counts.entries()) {
      const found = hits[tier] ?? 0
      counts.lookups += missing
      counts.hits += found
      missing -= found
    }
  }

  add(tier: number, what: Exclude<keyof Counts, 'lookups' | 'hits' | 'readBytes'>, amount: number): void {
    const counts = this.counts[tier]
    if (counts !== undefined) counts[what] += amount
  }

  /** By far the most frequent. */
  read(tier: number, bytes: number): void {
    const counts = this.counts[tier]
    if (counts !== undefined) counts.readBytes += bytes
  }

  load(
    fill: (tier: number, capacityBlocks: number) => { leasedBlocks: number; cachedBlocks: number },
  ): TierLoad[] {
    return this.tiers.map(({ name, blocks }, tier) => {
      return { name, capacityBlocks: blocks, ...fill(tier, blocks), ...(this.counts[tier] ?? NOTHING) }
    })
  }
}
