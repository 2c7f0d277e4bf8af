/**
 * Which lease holds which blocks, in the order of its sequence.
 *
 * Leases whose sequences begin with the same tokens share their stored blocks. A lease can end
 * while a device step or a transfer still touches its blocks. Those are `pins`: the blocks are
 * given back when the lease has ended and the last pin is gone, and not before, so a late
 * write can never hit another sequence.
 *
 * Invariants:
 * M1 A block without a hash belongs to exactly one holding.
 * M2 A holding's blocks are given back exactly once: all together at its end, or its first ones
 *    when another device took them over.
 * M3 Only full blocks are stored, and what is stored is never written to by its holders.
 */
import { BLOCK_TOKENS, blocksForTokens } from './block-allocator.js'
import type { BlockTable } from './block-table.js'

interface Holding {
  /** Blocks of pages `first`, `first` + 1, … */
  readonly blocks: number[]
  /** Pages before it were given up. */
  first: number
  /** Of the sequence's first pages. */
  hashes: readonly string[]
  /** Leading pages whose blocks are full, as far as hashes are known; those given up included. */
  full: number
  pins: number
  ended: boolean
  /** Given up, but still touched by what pinned the lease. */
  readonly leaving: number[]
}

export class LeasedMemory {
  private readonly holdings = new Map<bigint, Holding>()
  private readonly loans = new Map<number, readonly number[]>()
  private lastLoan = 0

  constructor(readonly table: BlockTable) {}

  /** Blocks of ended leases that are given back with their last pin. */
  get comingBlocks(): number {
    let blocks = 0
    for (const { ended, blocks: held, leaving } of this.holdings.values()) {
      const coming = ended ? [...held, ...leaving] : leaving
      blocks += coming.filter((block) => this.table.refsOf(block) === 1).length
    }
    return blocks
  }

  /** Whether `tokens` fit beside what is leased, sharing the stored blocks of `hashes`. */
  fits(tokens: number, hashes: readonly string[]): boolean {
    const run = this.storedRun(hashes, blocksForTokens(tokens))
    // Blocks of the run that nobody holds must not be counted as room for the rest.
    const { table } = this
    const unheld = run.filter((block) => table.refsOf(block) === 0 && !table.isGuarded(block)).length
    return blocksForTokens(tokens) - run.length <= table.availableBlocks - unheld
  }

  /** Whether the tiers could hold so many tokens were they empty. */
  couldEverFit(tokens: number): boolean {
    return blocksForTokens(tokens) <= this.table.capacityBlocks
  }

  /** Room for `tokens` under a new lease; false, and nothing taken, where it does not fit. */
  grant(counter: bigint, tokens: number, hashes: readonly string[]): boolean {
    if (!this.fits(tokens, hashes)) return false
    const run = this.storedRun(hashes, blocksForTokens(tokens))
    // Held before room is made, so that what is needed is never evicted for it.
    for (const block of run) this.table.share(block)
    const rest = this.table.take(blocksForTokens(tokens) - run.length) ?? []
    const blocks = [...run, ...rest]
    this.holdings.set(counter, {
      blocks,
      first: 0,
      hashes: [...hashes],
      full: run.length,
      pins: 0,
      ended: false,
      leaving: [],
    })
    return true
  }

  /** Room for `tokens` in all; false, and nothing changed, where it does not fit. */
  extend(counter: bigint, tokens: number): boolean {
    return this.extendSharing(counter, tokens, Number.POSITIVE_INFINITY)
  }

  /**
   * As `extend`, and gives back shared blocks after the first `sharedMax`: what is computed
   * again is written to a block of its own.
   */
  extendSharing(counter: bigint, tokens: number, sharedMax: number): boolean {
    const holding = this.living(counter)
    const excess = holding.blocks.slice(sharedMax, holding.full)
    const missing = blocksForTokens(tokens) - this.roomBlocks(holding) + excess.length
    const { table } = this
    const freed = excess.filter((block) => table.refsOf(block) === 1 && !table.isGuarded(block)).length
    if (missing > table.availableBlocks + freed) return false
    if (excess.length > 0) {
      holding.blocks.splice(sharedMax, excess.length)
      holding.full = sharedMax
      this.giveBack(holding, excess)
    }
    if (missing <= 0) return true
    const more = table.take(missing) ?? []
    holding.blocks.push(...more)
    if (holding.pins > 0) table.guard(more)
    return true
  }

  /** The block ids of a living lease, in the order of the sequence, from page `firstPage` on. */
  blocks(counter: bigint): readonly number[] {
    return this.living(counter).blocks
  }

  /** Pages before it were given up. */
  firstPage(counter: bigint): number {
    return this.living(counter).first
  }

  /** Tokens that the lease has room for, pages that were given up included. */
  roomTokens(counter: bigint): number {
    return this.roomBlocks(this.living(counter)) * BLOCK_TOKENS
  }

  /** Leading pages that are full and whose hashes are known. */
  fullPages(counter: bigint): number {
    return this.living(counter).full
  }

  /** What the first pages of a sequence will be, beyond what its grant said. */
  identify(counter: bigint, hashes: readonly string[]): void {
    this.living(counter).hashes = [...hashes]
  }

  /** The first `pages` pages are full: those with a hash may be shared from now on. */
  filled(counter: bigint, pages: number): void {
    const holding = this.living(counter)
    const full = Math.min(pages, holding.hashes.length, this.roomBlocks(holding))
    while (holding.full < full) {
      const block = holding.blocks[holding.full - holding.first]
      const hash = holding.hashes[holding.full]
      if (block !== undefined && hash !== undefined) this.table.store(block, hash)
      holding.full += 1
    }
  }

  /**
   * Page number `page`, the last full one, has this hash. Nothing happens where it has one already, or a page
   * before it has none: so a hash that comes too early is never taken for that of a page that is not full.
   */
  filledPage(counter: bigint, page: number, hash: string): void {
    const holding = this.living(counter)
    if (page !== holding.hashes.length || page !== holding.full) return
    holding.hashes = [...holding.hashes, hash]
    this.filled(counter, page + 1)
  }

  /** Gives back the first `pages` pages. */
  giveUp(counter: bigint, pages: number): void {
    const holding = this.living(counter)
    const blocks = holding.blocks.splice(0, Math.max(0, pages - holding.first))
    holding.first += blocks.length
    this.giveBack(holding, blocks)
  }

  pin(counter: bigint): void {
    const holding = this.living(counter)
    if (holding.pins === 0) this.table.guard(holding.blocks)
    holding.pins += 1
  }

  unpin(counter: bigint): void {
    const holding = this.holdings.get(counter)
    if (holding === undefined || holding.pins === 0) throw new Error(`Lease ${counter} is not pinned`)
    holding.pins -= 1
    if (holding.pins > 0) return
    this.table.unguard(holding.blocks)
    this.table.unguard(holding.leaving)
    this.table.drop(holding.leaving.splice(0))
    if (holding.ended) this.free(counter, holding)
  }

  end(counter: bigint): void {
    const holding = this.living(counter)
    holding.ended = true
    if (holding.pins === 0) this.free(counter, holding)
  }

  /** Keeps the longest leading run that is stored where it is; loan 0 and no blocks where there is none. */
  lend(hashes: readonly string[]): { readonly loan: number; readonly blocks: readonly number[] } {
    const blocks = this.storedRun(hashes, hashes.length)
    if (blocks.length === 0) return { loan: 0, blocks }
    this.lastLoan += 1
    this.loans.set(this.lastLoan, blocks)
    this.table.guard(blocks)
    return { loan: this.lastLoan, blocks }
  }

  /** Nothing happens where the loan is over. */
  return(loan: number): void {
    const blocks = this.loans.get(loan)
    if (blocks === undefined) return
    this.loans.delete(loan)
    this.table.unguard(blocks)
  }

  /** Blocks have other ids now. */
  moved(places: ReadonlyMap<number, number>): void {
    for (const { blocks } of this.holdings.values()) {
      for (const [index, block] of blocks.entries()) {
        const to = places.get(block)
        if (to !== undefined) blocks[index] = to
      }
    }
  }

  /** Blocks of the longest leading run of stored hashes, at most `blocksMax`. */
  private storedRun(hashes: readonly string[], blocksMax: number): number[] {
    const run: number[] = []
    for (const hash of hashes) {
      const block = run.length < blocksMax ? this.table.find(hash) : undefined
      if (block === undefined) break
      run.push(block)
    }
    return run
  }

  private roomBlocks(holding: Holding): number {
    return holding.first + holding.blocks.length
  }

  /** Blocks that the holding has no more; what still touches the lease keeps them until then. */
  private giveBack(holding: Holding, blocks: readonly number[]): void {
    if (holding.pins > 0) holding.leaving.push(...blocks)
    else this.table.drop(blocks)
  }

  private free(counter: bigint, holding: Holding): void {
    this.holdings.delete(counter)
    this.table.drop(holding.blocks)
  }

  private living(counter: bigint): Holding {
    const holding = this.holdings.get(counter)
    if (holding === undefined || holding.ended) throw new Error(`Lease ${counter} holds no memory`)
    return holding
  }
}
