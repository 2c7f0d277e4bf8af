/**
 * Hands out the blocks of a device's memory tiers, the nearest tier first.
 *
 * Block ids count through the tiers: the nearest has 0 … n₀−1, the next n₀ … n₀+n₁−1, and so on.
 *
 * Invariants:
 * B1 A block is free or has been handed out once; never both, never twice.
 * B2 Never more blocks are out than a tier holds: a wish that does not fit takes nothing.
 * B3 Freeing a block that is not out is a programming error and throws.
 */

/** Tokens in a full block, the unit of accounting, hashing and transfer, unless a core is told otherwise. */
export const BLOCK_TOKENS = 16

/** Whole blocks that hold `tokens` tokens. */
export function blocksForTokens(tokens: number, blockTokens = BLOCK_TOKENS): number {
  return Math.ceil(tokens / blockTokens)
}

/** Full blocks among `tokens` tokens. */
export function fullBlocks(tokens: number, blockTokens = BLOCK_TOKENS): number {
  return Math.floor(tokens / blockTokens)
}

export class BlockAllocator {
  readonly capacityBlocks: number
  /** Of each tier, free block ids; the last one is handed out next, so a warm block is used again soon. */
  private readonly free: number[][] = []
  private readonly tiers: Uint8Array
  private readonly out: Uint8Array
  private freeTotal: number

  constructor(tierBlocks: readonly number[]) {
    for (const blocks of tierBlocks) {
      if (!Number.isSafeInteger(blocks) || blocks < 0)
        throw new RangeError(`A tier cannot hold ${blocks} blocks`)
    }
    this.capacityBlocks = tierBlocks.reduce((sum, blocks) => sum + blocks, 0)
    this.freeTotal = this.capacityBlocks
    this.out = new Uint8Array(this.capacityBlocks)
    this.tiers = new Uint8Array(this.capacityBlocks)
    let first = 0
    for (const [tier, blocks] of tierBlocks.entries()) {
      this.tiers.fill(tier, first, first + blocks)
      this.free.push(Array.from({ length: blocks }, (_, index) => first + blocks - 1 - index))
      first += blocks
    }
  }

  get freeBlocks(): number {
    return this.freeTotal
  }

  get usedBlocks(): number {
    return this.capacityBlocks - this.freeTotal
  }

  freeIn(tier: number): number {
    return this.free[tier]?.length ?? 0
  }

  tierOf(block: number): number {
    return this.tiers[block] ?? 0
  }

  /** Block ids, or undefined where fewer than `count` are free. */
  allocate(count: number): number[] | undefined {
    if (count > this.freeTotal) return undefined
    const ids: number[] = []
    for (const free of this.free) {
      while (ids.length < count) {
        const id = free.pop()
        if (id === undefined) break
        this.out[id] = 1
        ids.push(id)
      }
    }
    this.freeTotal -= ids.length
    return ids
  }

  /** A block of this tier, or undefined where none is free. */
  allocateIn(tier: number): number | undefined {
    const id = this.free[tier]?.pop()
    if (id === undefined) return undefined
    this.out[id] = 1
    this.freeTotal -= 1
    return id
  }

  release(id: number): void {
    if (this.out[id] !== 1) throw new Error(`Block ${id} is freed but was not in use`)
    this.out[id] = 0
    this.free[this.tierOf(id)]?.push(id)
    this.freeTotal += 1
  }
}
