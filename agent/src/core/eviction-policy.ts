/**
 * Which cached block goes first when memory is needed: for the memory of a device, which names blocks by
 * number, and for the host tier of a machine, which names them by hash.
 *
 * A policy knows the blocks that may go now, by name, and nothing else: what is leased, lent
 * or being sent is not told to it, so that whatever it names may be evicted.
 *
 * Use: a chain of blocks is touched from its tail to its head, so that the leaves go first;
 * a block without those before it is of no use to anyone.
 */

export interface EvictionPolicy<Name = string> {
  /** Blocks that may go. */
  readonly size: number
  /** The block was used just now, and may go from now on. */
  touch(name: Name): void
  /** The block may not go any more, or is gone. Nothing happens where it is unknown. */
  forget(name: Name): void
  /** The block to evict next; it stays known until `forget`. Undefined where none may go. */
  victim(): Name | undefined
  /** All that may go, the next victim first. What is named may be forgotten meanwhile. */
  order(): Iterable<Name>
}

/** Of the blocks of a device's pool. */
export interface BlockEvictionPolicy extends EvictionPolicy<number> {
  /** What was in one block is in another one now, and as old; nothing happens where it may not go. */
  moved(from: number, to: number): void
}

/** Least recently used first; every operation takes constant time, amortised. */
export class LeastRecentlyUsed implements EvictionPolicy {
  /** Oldest use first: a Set keeps the order of insertion. */
  private readonly used = new Set<string>()
  /**
   * Goes on where it stopped, since a new one would walk over all that was forgotten at the front. It
   * has gone as far as `next`, the oldest where it is known.
   */
  private oldest: Iterator<string> = this.used.values()
  private next: string | undefined

  get size(): number {
    return this.used.size
  }

  touch(hash: string): void {
    this.forget(hash)
    this.used.add(hash)
  }

  forget(hash: string): void {
    this.used.delete(hash)
    if (hash === this.next) this.next = undefined
  }

  victim(): string | undefined {
    if (this.next !== undefined || this.used.size === 0) return this.next
    // An iterator that has come to its end finds nothing that is added later.
    let { value, done } = this.oldest.next()
    if (done === true) {
      this.oldest = this.used.values()
      ;({ value } = this.oldest.next())
    }
    this.next = value
    return this.next
  }

  order(): Iterable<string> {
    return this.used.values()
  }
}
