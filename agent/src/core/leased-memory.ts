/**
 * Which lease holds which blocks.
 *
 * A lease can end while a device step or a transfer still touches its blocks. Those
 * are `pins`: the blocks go back to the allocator when the lease has ended and the
 * last pin is gone, and not before, so a late write can never hit another sequence.
 *
 * Invariants:
 * M1 Every block in use belongs to exactly one holding.
 * M2 A holding's blocks are freed exactly once, all together.
 */
import { BlockAllocator, blocksForTokens } from './block-allocator.js'

interface Holding {
  readonly blocks: number[]
  pins: number
  ended: boolean
}

export class LeasedMemory {
  private readonly allocator: BlockAllocator
  private readonly holdings = new Map<bigint, Holding>()

  constructor(capacityBlocks: number) {
    this.allocator = new BlockAllocator(capacityBlocks)
  }

  get capacityBlocks(): number {
    return this.allocator.capacityBlocks
  }

  get usedBlocks(): number {
    return this.allocator.usedBlocks
  }

  get freeBlocks(): number {
    return this.allocator.freeBlocks
  }

  /** Blocks of ended leases that become free with their last pin. */
  get comingBlocks(): number {
    let blocks = 0
    for (const holding of this.holdings.values()) if (holding.ended) blocks += holding.blocks.length
    return blocks
  }

  fits(tokens: number): boolean {
    return blocksForTokens(tokens) <= this.allocator.freeBlocks
  }

  /** Whether the tier could hold so many tokens were it empty. */
  couldEverFit(tokens: number): boolean {
    return blocksForTokens(tokens) <= this.allocator.capacityBlocks
  }

  /** Room for `tokens` under a new lease; false, and nothing taken, where it does not fit. */
  grant(counter: bigint, tokens: number): boolean {
    const blocks = this.allocator.allocate(blocksForTokens(tokens))
    if (blocks === undefined) return false
    this.holdings.set(counter, { blocks, pins: 0, ended: false })
    return true
  }

  /** Room for `tokens` in all; false, and nothing changed, where it does not fit. */
  extend(counter: bigint, tokens: number): boolean {
    const holding = this.living(counter)
    const missing = blocksForTokens(tokens) - holding.blocks.length
    if (missing <= 0) return true
    const more = this.allocator.allocate(missing)
    if (more === undefined) return false
    holding.blocks.push(...more)
    return true
  }

  /** The block ids of a living lease, in the order of the sequence. */
  blocks(counter: bigint): readonly number[] {
    return this.living(counter).blocks
  }

  pin(counter: bigint): void {
    this.living(counter).pins += 1
  }

  unpin(counter: bigint): void {
    const holding = this.holdings.get(counter)
    if (holding === undefined || holding.pins === 0) throw new Error(`Lease ${counter} is not pinned`)
    holding.pins -= 1
    this.freeIfDone(counter, holding)
  }

  end(counter: bigint): void {
    const holding = this.living(counter)
    holding.ended = true
    this.freeIfDone(counter, holding)
  }

  private freeIfDone(counter: bigint, holding: Holding): void {
    if (!holding.ended || holding.pins > 0) return
    this.holdings.delete(counter)
    this.allocator.release(holding.blocks)
  }

  private living(counter: bigint): Holding {
    const holding = this.holdings.get(counter)
    if (holding === undefined || holding.ended) throw new Error(`Lease ${counter} holds no memory`)
    return holding
  }
}
