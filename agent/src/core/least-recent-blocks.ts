/**
 * Least recently used first, for the blocks of a pool: a ring of neighbours in two integer arrays, so that a use,
 * a removal and a move are a few writes each and nothing is allocated.
 */
import type { BlockEvictionPolicy } from './eviction-policy.js'

const NOT_IN = -1

export class LeastRecentBlocks implements BlockEvictionPolicy {
  /** Used next after the block. The place after the last block is the ring's end: after it comes the oldest. */
  private readonly newer: Int32Array
  private readonly older: Int32Array
  private readonly end: number
  private count = 0

  constructor(capacityBlocks: number) {
    this.end = capacityBlocks
    this.newer = new Int32Array(capacityBlocks + 1).fill(NOT_IN)
    this.older = new Int32Array(capacityBlocks + 1).fill(NOT_IN)
    this.newer[this.end] = this.end
    this.older[this.end] = this.end
  }

  get size(): number {
    return this.count
  }

  touch(block: number): void {
    this.forget(block)
    const newest = this.older[this.end] ?? this.end
    this.put(newest, block, this.end)
    this.count += 1
  }

  forget(block: number): void {
    const newer = this.newer[block] ?? NOT_IN
    if (newer === NOT_IN) return
    const older = this.older[block] ?? this.end
    this.newer[older] = newer
    this.older[newer] = older
    this.newer[block] = NOT_IN
    this.count -= 1
  }

  victim(): number | undefined {
    const oldest = this.newer[this.end] ?? this.end
    return oldest === this.end ? undefined : oldest
  }

  *order(): Iterable<number> {
    let block = this.newer[this.end] ?? this.end
    while (block !== this.end) {
      const next = this.newer[block] ?? this.end
      yield block
      block = next
    }
  }

  moved(from: number, to: number): void {
    const newer = this.newer[from] ?? NOT_IN
    if (newer === NOT_IN) return
    const older = this.older[from] ?? this.end
    this.newer[from] = NOT_IN
    this.put(older, to, newer)
  }

  private put(older: number, block: number, newer: number): void {
    this.newer[older] = block
    this.older[block] = older
    this.newer[block] = newer
    this.older[newer] = block
  }
}
