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
import { BLOCK_TOKENS } from './block-allocator.js'
import type { BlockTable } from './block-table.js'
import { Holding } from './holding.js'

export class LeasedMemory {
  private readonly holdings = new Map<bigint, Holding>()
  private readonly loans = new Map<number, readonly number[]>()
  private lastLoan = 0

  constructor(
    readonly table: BlockTable,
    readonly blockTokens = BLOCK_TOKENS,
  ) {}

  /** Blocks of ended leases that are given back with their last pin. */
  get comingBlocks(): number {
    let blocks = 0
    for (const { ended, blocks: held, leaving } of this.holdings.values()) {
      if (ended) blocks += this.countAlone(held)
      blocks += this.countAlone(leaving)
    }
    return blocks
  }

  /** Marks, by their number, blocks that a pinned lease holds or has given up: something touches them. */
  markPinned(marks: Uint8Array): void {
    for (const { pins, blocks, leaving } of this.holdings.values()) {
      if (pins === 0) continue
      for (const block of blocks) marks[block] = 1
      for (const block of leaving) marks[block] = 1
    }
  }

  /** Whether the tiers could hold so many tokens were they empty. */
  couldEverFit(tokens: number): boolean {
    return this.pagesOf(tokens) <= this.table.capacityBlocks
  }

  /**
   * Room for `tokens` that shares the stored blocks of `hashes`, for a lease that is named next; undefined, and nothing
   * taken, where it does not fit beside what is leased.
   */
  claim(tokens: number, hashes: readonly string[]): Holding | undefined {
    const { table } = this
    const pages = this.pagesOf(tokens)
    if (pages - hashes.length > table.availableBlocks) return undefined
    const blocks = this.storedRun(hashes, pages)
    const shared = blocks.length
    // Blocks of the run that nobody holds must not be counted as room for the rest.
    let unheld = 0
    for (const block of blocks) if (table.refsOf(block) === 0 && !table.isGuarded(block)) unheld += 1
    if (pages - shared > table.availableBlocks - unheld) return undefined
    // Held before room is made, so that what is needed is never evicted for it.
    for (const block of blocks) table.share(block)
    for (const block of table.take(pages - shared) ?? []) blocks.push(block)
    return new Holding(blocks, hashes, shared)
  }

  /** What was claimed belongs to this lease. */
  assign(counter: bigint, holding: Holding): void {
    this.holdings.set(counter, holding)
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
    const holding = this.holding(counter)
    const excess = holding.blocks.slice(sharedMax, holding.full)
    const missing = this.pagesOf(tokens) - holding.roomBlocks + excess.length
    const { table } = this
    const freed = holding.pins > 0 ? 0 : this.countAlone(excess, (block) => !table.isGuarded(block))
    if (missing > table.availableBlocks + freed) return false
    if (excess.length > 0) {
      holding.blocks.splice(sharedMax, excess.length)
      holding.full = sharedMax
      holding.changed()
      this.giveBack(holding, excess)
    }
    if (missing <= 0) return true
    for (const block of table.take(missing) ?? []) holding.blocks.push(block)
    return true
  }

  /** Of a living lease. */
  holding(counter: bigint): Holding {
    const holding = this.holdings.get(counter)
    if (holding === undefined || holding.ended) throw new Error(`Lease ${counter} holds no memory`)
    return holding
  }

  /** The block ids of a living lease, in the order of the sequence, from page `firstPage` on. */
  blocks(counter: bigint): readonly number[] {
    return this.holding(counter).blocks
  }

  /** Tokens that the lease has room for, pages that were given up included. */
  roomTokens(counter: bigint): number {
    return this.holding(counter).roomBlocks * this.blockTokens
  }

  /** Leading pages that are full and whose hashes are known. */
  fullPages(counter: bigint): number {
    return this.holding(counter).full
  }

  /** What the first pages of a sequence will be, beyond what its grant said. */
  identify(counter: bigint, hashes: readonly string[]): void {
    this.holding(counter).identify(hashes)
  }

  /** The first `pages` pages are full: those with a hash may be shared from now on. */
  filled(counter: bigint, pages: number): void {
    const holding = this.holding(counter)
    const full = Math.min(pages, holding.hashes.length, holding.roomBlocks)
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
    const holding = this.holding(counter)
    if (page !== holding.hashes.length || page !== holding.full) return
    holding.addHash(hash)
    this.filled(counter, page + 1)
  }

  /** Gives back the first `pages` pages. */
  giveUp(counter: bigint, pages: number): void {
    const holding = this.holding(counter)
    const blocks = holding.blocks.splice(0, Math.max(0, pages - holding.first))
    holding.first += blocks.length
    holding.changed()
    this.giveBack(holding, blocks)
  }

  pin(counter: bigint): void {
    this.holding(counter).pins += 1
  }

  unpin(counter: bigint): void {
    const holding = this.holdings.get(counter)
    if (holding === undefined || holding.pins === 0) throw new Error(`Lease ${counter} is not pinned`)
    this.letGo(counter, holding)
  }

  /** As `unpin`, of a lease whose holding is known to be pinned. */
  letGo(counter: bigint, holding: Holding): void {
    holding.pins -= 1
    if (holding.pins > 0) return
    if (holding.leaving.length > 0) this.table.drop(holding.leaving.splice(0))
    if (holding.ended) this.free(counter, holding)
  }

  end(counter: bigint): void {
    const holding = this.holding(counter)
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
    const marks = new Uint8Array(this.table.capacityBlocks)
    for (const block of places.keys()) marks[block] = 1
    for (const holding of this.holdings.values()) {
      const { blocks } = holding
      let isOther = false
      for (let index = 0; index < blocks.length; index += 1) {
        const block = blocks[index] ?? 0
        const to = marks[block] === 1 ? places.get(block) : undefined
        if (to === undefined) continue
        blocks[index] = to
        isOther = true
      }
      if (isOther) holding.changed()
    }
  }

  private pagesOf(tokens: number): number {
    return Math.ceil(tokens / this.blockTokens)
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

  /** Blocks that one lease alone holds. */
  private countAlone(blocks: readonly number[], counts: (block: number) => boolean = () => true): number {
    let alone = 0
    for (const block of blocks) if (this.table.refsOf(block) === 1 && counts(block)) alone += 1
    return alone
  }

  /** Blocks that the holding has no more; what still touches the lease keeps them until then. */
  private giveBack(holding: Holding, blocks: readonly number[]): void {
    if (holding.pins === 0) this.table.drop(blocks)
    else for (const block of blocks) holding.leaving.push(block)
  }

  private free(counter: bigint, holding: Holding): void {
    this.holdings.delete(counter)
    this.table.drop(holding.blocks)
  }
}
