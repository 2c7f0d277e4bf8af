/**
 * The blocks of one lease, in the order of its sequence. LeasedMemory alone changes it; others read it, step after
 * step, so what they ask for is kept as long as nothing changes.
 */
import type { BlockTable } from './block-table.js'

export class Holding {
  /** Pages before it were given up. */
  first = 0
  pins = 0
  ended = false
  /** Given up, but still touched by what pinned the lease. */
  readonly leaving: number[] = []
  /** Whether `hashes` is an array of its own. */
  private ownsHashes = false
  private seen: readonly number[] | undefined
  /** Of the first `countedBlocks` blocks, those in each tier. */
  private counted: number[] = []
  private countedBlocks = 0

  /**
   * `blocks`: of pages `first`, `first` + 1, …; `hashes`: of the sequence's first pages; `full`: leading pages
   * whose blocks are full, as far as hashes are known, those given up included.
   */
  constructor(
    readonly blocks: number[],
    public hashes: readonly string[],
    public full: number,
  ) {}

  /** Pages that it has room for, those given up included. */
  get roomBlocks(): number {
    return this.first + this.blocks.length
  }

  /** The blocks of pages `first` up to, not including, `page`, as they are now: what is given is never changed. */
  blocksBefore(page: number): readonly number[] {
    const count = Math.max(0, page - this.first)
    const { seen } = this
    if (seen !== undefined && seen.length === Math.min(count, this.blocks.length)) return seen
    const blocks = this.blocks.slice(0, count)
    this.seen = blocks
    return blocks
  }

  /** How many of the blocks before `page` each tier has. Read it at once: the next call changes it. */
  tiersBefore(page: number, table: BlockTable): readonly number[] {
    const count = Math.min(Math.max(0, page - this.first), this.blocks.length)
    if (count < this.countedBlocks || this.counted.length === 0) {
      this.counted = new Array<number>(table.tierCount).fill(0)
      this.countedBlocks = 0
    }
    // With one tier there is nothing to look up.
    if (this.counted.length === 1) this.counted[0] = count
    for (; this.countedBlocks < count && this.counted.length > 1; this.countedBlocks += 1) {
      const tier = table.tierOf(this.blocks[this.countedBlocks] ?? 0)
      this.counted[tier] = (this.counted[tier] ?? 0) + 1
    }
    return this.counted
  }

  /** Blocks were replaced or taken out; not needed where some were only added at the end. */
  changed(): void {
    this.seen = undefined
    this.counted = []
    this.countedBlocks = 0
  }

  /** One hash more than before. */
  addHash(hash: string): void {
    if (!this.ownsHashes) this.hashes = [...this.hashes]
    this.ownsHashes = true
    ;(this.hashes as string[]).push(hash)
  }

  identify(hashes: readonly string[]): void {
    this.hashes = hashes
    this.ownsHashes = false
  }
}
