/**
 * Hands out the blocks of one memory tier.
 *
 * Invariants:
 * B1 A block is free or has been handed out once; never both, never twice.
 * B2 Never more blocks are out than the tier holds: a wish that does not fit takes nothing.
 * B3 Freeing a block that is not out is a programming error and throws.
 */

/** Tokens in a full block; the unit of accounting, hashing and transfer. */
export const BLOCK_TOKENS = 16

/** Whole blocks that hold `tokens` tokens. */
export function blocksForTokens(tokens: number): number {
  return Math.ceil(tokens / BLOCK_TOKENS)
}

export class BlockAllocator {
  /** Free block ids; the last one is handed out next, so a warm block is used again soon. */
  private readonly free: number[] = []
  private readonly out: Uint8Array

  constructor(readonly capacityBlocks: number) {
    if (!Number.isSafeInteger(capacityBlocks) || capacityBlocks < 0) {
      throw new RangeError(`A tier cannot hold ${capacityBlocks} blocks`)
    }
    this.out = new Uint8Array(capacityBlocks)
    for (let id = capacityBlocks - 1; id >= 0; id -= 1) this.free.push(id)
  }

  get freeBlocks(): number {
    return this.free.length
  }

  get usedBlocks(): number {
    return this.capacityBlocks - this.free.length
  }

  /** Block ids, or undefined where fewer than `count` are free. */
  allocate(count: number): number[] | undefined {
    if (count > this.free.length) return undefined
    const ids = count === 0 ? [] : this.free.splice(-count).reverse()
    for (const id of ids) this.out[id] = 1
    return ids
  }

  release(ids: readonly number[]): void {
    for (const id of ids) {
      if (this.out[id] !== 1) throw new Error(`Block ${id} is freed but was not in use`)
      this.out[id] = 0
      this.free.push(id)
    }
  }
}
