/**
 * The state of every block of a device: free, held by leases, or cached.
 *
 * free: nobody's. held: some leases count on it. cached: full, known by its hash, held by
 * nobody; kept because a later sequence may begin with the same tokens, and evicted when
 * memory is needed. A block that is full and has a hash is `stored`, held or cached; a stored
 * block is never written to again, so it may be shared and read at any time.
 *
 * Invariants:
 * T1 A block is in one state. Free and cached together are what new leases may take.
 * T2 A hash names one block at most: where two leases computed the same content, the second
 *    block has no hash and is free when nobody holds it.
 * T3 A guarded block (lent, pinned, in a running step, being received) is neither evicted nor moved.
 * T4 Whoever replays what `takeChanges` gave has the set of stored hashes.
 */
import { BlockAllocator } from './block-allocator.js'
import type { EvictionPolicy } from './eviction-policy.js'

export interface EvictedBlock {
  readonly hash: string
  readonly block: number
}

export class BlockTable {
  private readonly allocator: BlockAllocator
  /** Leases that hold the block. */
  private readonly refs: Int32Array
  private readonly guards: Int32Array
  private readonly hashes: (string | undefined)[]
  private readonly byHash = new Map<string, number>()
  /** Of each tier. */
  private readonly cached: number[]
  /** Hashes whose state may have changed since `takeChanges`, and whether they were stored then. */
  private readonly before = new Map<string, boolean>()

  /** `evictable`: told of cached blocks without guards. `evicted`: hears of the blocks (perhaps none) that make room, before others get them. */
  constructor(
    tierBlocks: readonly number[],
    private readonly evictable: EvictionPolicy,
    private readonly evicted: (blocks: readonly EvictedBlock[]) => void,
  ) {
    this.allocator = new BlockAllocator(tierBlocks)
    const { capacityBlocks } = this.allocator
    this.refs = new Int32Array(capacityBlocks)
    this.guards = new Int32Array(capacityBlocks)
    this.hashes = new Array<string | undefined>(capacityBlocks).fill(undefined)
    this.cached = tierBlocks.map(() => 0)
  }

  get capacityBlocks(): number {
    return this.allocator.capacityBlocks
  }

  get heldBlocks(): number {
    return this.allocator.usedBlocks - this.cachedBlocks
  }

  get cachedBlocks(): number {
    return this.cached.reduce((sum, blocks) => sum + blocks, 0)
  }

  /** Free, or evicted on demand. */
  get availableBlocks(): number {
    return this.allocator.freeBlocks + this.evictable.size
  }

  freeIn(tier: number): number {
    return this.allocator.freeIn(tier)
  }

  cachedIn(tier: number): number {
    return this.cached[tier] ?? 0
  }

  tierOf(block: number): number {
    return this.allocator.tierOf(block)
  }

  /** The stored block of this hash. */
  find(hash: string): number | undefined {
    return this.byHash.get(hash)
  }

  hashOf(block: number): string | undefined {
    return this.hashes[block]
  }

  storedHashes(): Iterable<string> {
    return this.byHash.keys()
  }

  /** Cached blocks without guards, the next to be evicted first. */
  *evictableBlocks(): Iterable<number> {
    for (const hash of this.evictable.order()) yield this.blockOf(hash)
  }

  isGuarded(block: number): boolean {
    return (this.guards[block] ?? 0) > 0
  }

  /** Leases that hold it. */
  refsOf(block: number): number {
    return this.refs[block] ?? 0
  }

  /** Blocks without content for one lease, evicting what must go; undefined, and nothing changed, where too few are available. */
  take(count: number): number[] | undefined {
    if (count > this.availableBlocks) return undefined
    this.evicted(this.evict(count - this.allocator.freeBlocks))
    const blocks = this.allocator.allocate(count) ?? []
    for (const block of blocks) this.refs[block] = 1
    return blocks
  }

  /** One more lease holds a stored block. */
  share(block: number): void {
    const refs = this.refsOf(block)
    this.refs[block] = refs + 1
    if (refs > 0) return
    this.countCached(block, -1)
    this.evictable.forget(this.hashes[block] ?? '')
  }

  /** One lease fewer holds each of these consecutive blocks: the stored ones stay, as cache, once nobody holds them. */
  drop(blocks: readonly number[]): void {
    for (const block of blocks.toReversed()) {
      const refs = this.refsOf(block)
      if (refs < 1) throw new Error(`Block ${block} is dropped but nobody holds it`)
      this.refs[block] = refs - 1
      if (refs > 1) continue
      if (this.hashes[block] === undefined) this.allocator.release([block])
      else {
        this.countCached(block, 1)
        this.settle(block)
      }
    }
  }

  /** A held block is full. Nothing happens where another block has the hash already. */
  store(block: number, hash: string): void {
    if (this.byHash.has(hash) || this.hashes[block] !== undefined) return
    this.note(hash)
    this.hashes[block] = hash
    this.byHash.set(hash, block)
  }

  guard(blocks: readonly number[]): void {
    for (const block of blocks) {
      this.guards[block] = (this.guards[block] ?? 0) + 1
      if (this.refsOf(block) === 0) this.evictable.forget(this.hashes[block] ?? '')
    }
  }

  unguard(blocks: readonly number[]): void {
    for (const block of blocks.toReversed()) {
      if (!this.isGuarded(block)) throw new Error(`Block ${block} is not guarded`)
      this.guards[block] = (this.guards[block] ?? 0) - 1
      if (this.refsOf(block) === 0) this.settle(block)
    }
  }

  /**
   * Evicts all cached blocks that nobody guards, of which `evicted` does not hear. They come most recently
   * used first: where not all can be kept elsewhere, the first should be worth most.
   */
  evictAll(): EvictedBlock[] {
    return this.evict(this.evictable.size).toReversed()
  }

  /** Evicts the blocks that go first among the cached ones of one tier, at most `count`; returns how many. */
  evictIn(tier: number, count: number): number {
    const gone: EvictedBlock[] = []
    if (count < 1) return 0
    for (const hash of this.evictable.order()) {
      const block = this.blockOf(hash)
      if (this.tierOf(block) !== tier) continue
      this.forget(hash)
      gone.push({ hash, block })
      if (gone.length === count) break
    }
    this.evicted(gone)
    return gone.length
  }

  /**
   * Gives an unguarded block in use another place in `tier`; undefined where none is free. Its holders
   * have to be told, and the place it leaves is nobody's until `vacate`.
   */
  relocate(block: number, tier: number): number | undefined {
    if (this.isGuarded(block)) throw new Error(`Block ${block} is moved while it is used`)
    const refs = this.refsOf(block)
    const hash = this.hashes[block]
    const to = this.allocator.allocateIn(tier)
    if (to === undefined) return undefined
    if (refs === 0) {
      this.countCached(block, -1)
      this.countCached(to, 1)
    }
    this.refs[to] = refs
    this.refs[block] = 0
    this.hashes[to] = hash
    this.hashes[block] = undefined
    if (hash !== undefined) this.byHash.set(hash, to)
    return to
  }

  /** The places that `relocate` emptied are free. */
  vacate(blocks: readonly number[]): void {
    this.allocator.release(blocks)
  }

  /** What was stored and removed since the last call; undefined where nothing was. */
  takeChanges(): { stored: string[]; removed: string[] } | undefined {
    const stored: string[] = []
    const removed: string[] = []
    for (const [hash, before] of this.before) {
      const now = this.byHash.has(hash)
      if (now && !before) stored.push(hash)
      if (!now && before) removed.push(hash)
    }
    this.before.clear()
    return stored.length === 0 && removed.length === 0 ? undefined : { stored, removed }
  }

  private evict(count: number): EvictedBlock[] {
    const gone: EvictedBlock[] = []
    while (gone.length < count) {
      const hash = this.evictable.victim()
      if (hash === undefined) break
      gone.push({ hash, block: this.blockOf(hash) })
      this.forget(hash)
    }
    return gone
  }

  /** A cached block may be evicted where nobody guards it. */
  private settle(block: number): void {
    const hash = this.hashes[block]
    if (hash !== undefined && !this.isGuarded(block)) this.evictable.touch(hash)
  }

  /** A cached block is free from now on. */
  private forget(hash: string): void {
    const block = this.blockOf(hash)
    this.note(hash)
    this.evictable.forget(hash)
    this.byHash.delete(hash)
    this.hashes[block] = undefined
    this.countCached(block, -1)
    this.allocator.release([block])
  }

  private blockOf(hash: string): number {
    const block = this.byHash.get(hash)
    if (block === undefined) throw new Error(`No block is stored as ${hash}`)
    return block
  }

  private countCached(block: number, change: 1 | -1): void {
    const tier = this.tierOf(block)
    this.cached[tier] = (this.cached[tier] ?? 0) + change
  }

  private note(hash: string): void {
    if (!this.before.has(hash)) this.before.set(hash, this.byHash.has(hash))
  }
}
