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
 * T3 A guarded (lent) block is neither evicted nor moved. Held ones are never evicted; which of them are touched,
 *    and so must stay where they are, LeasedMemory knows.
 * T4 Whoever replays what `takeChanges` gave has the set of stored hashes.
 */
import { BlockAllocator } from './block-allocator.js'
import type { BlockEvictionPolicy } from './eviction-policy.js'

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
  /** What was stored (else removed) since `takeChanges`, in order. */
  private changed: string[] = []
  private changedTo: boolean[] = []
  private removals = 0
  private gains = 0

  /** `evictable`: told of cached blocks without guards. `evicted`: hears of the blocks (perhaps none) that make room, before others get them. */
  constructor(
    tierBlocks: readonly number[],
    private readonly evictable: BlockEvictionPolicy,
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

  get tierCount(): number {
    return this.cached.length
  }

  get heldBlocks(): number {
    return this.allocator.usedBlocks - this.cachedBlocks
  }

  get cachedBlocks(): number {
    return this.cached.reduce((sum, blocks) => sum + blocks, 0)
  }

  get freeBlocks(): number {
    return this.allocator.freeBlocks
  }

  /** Free, or evicted on demand. */
  get availableBlocks(): number {
    return this.allocator.freeBlocks + this.evictable.size
  }

  /** Rises whenever something may fit that did not before: a block came free, may be evicted, or may be shared. */
  get roomGained(): number {
    return this.gains
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

  storedHashes(): Iterable<string> {
    return this.byHash.keys()
  }

  /** Cached blocks without guards, the next to be evicted first. */
  evictableBlocks(): Iterable<number> {
    return this.evictable.order()
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
    this.evictable.forget(block)
  }

  /** One lease fewer holds each of these consecutive blocks: the stored ones stay, as cache, once nobody holds them. */
  drop(blocks: readonly number[]): void {
    for (let index = blocks.length - 1; index >= 0; index -= 1) {
      const block = blocks[index] ?? 0
      const refs = this.refsOf(block)
      if (refs < 1) throw new Error(`Block ${block} is dropped but nobody holds it`)
      this.refs[block] = refs - 1
      if (refs > 1) continue
      if (this.hashes[block] === undefined) this.allocator.release(block)
      else {
        this.countCached(block, 1)
        if (!this.isGuarded(block)) this.evictable.touch(block)
      }
    }
    this.gains += 1
  }

  /** A held block is full. Nothing happens where another block has the hash already. */
  store(block: number, hash: string): void {
    if (this.hashes[block] !== undefined || this.byHash.has(hash)) return
    this.note(hash, true)
    this.hashes[block] = hash
    this.byHash.set(hash, block)
    this.gains += 1
  }

  /** Lends stored blocks. */
  guard(blocks: readonly number[]): void {
    for (const block of blocks) {
      this.guards[block] = (this.guards[block] ?? 0) + 1
      if (this.refsOf(block) === 0) this.evictable.forget(block)
    }
  }

  unguard(blocks: readonly number[]): void {
    for (let index = blocks.length - 1; index >= 0; index -= 1) {
      const block = blocks[index] ?? 0
      const guards = this.guards[block] ?? 0
      if (guards < 1) throw new Error(`Block ${block} is not guarded`)
      this.guards[block] = guards - 1
      if (guards === 1 && this.refsOf(block) === 0) this.evictable.touch(block)
    }
    this.gains += 1
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
    for (const block of this.evictable.order()) {
      if (this.tierOf(block) !== tier) continue
      gone.push(this.forget(block))
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
      this.evictable.moved(block, to)
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
    for (const block of blocks) this.allocator.release(block)
    this.gains += 1
  }

  /** What was stored and removed since the last call; undefined where nothing was. */
  takeChanges(): { stored: readonly string[]; removed: readonly string[] } | undefined {
    const { changed, changedTo, removals } = this
    if (changed.length === 0) return undefined
    this.changed = []
    this.changedTo = []
    this.removals = 0
    if (removals === 0) return { stored: changed, removed: [] }
    if (removals === changed.length) return { stored: [], removed: changed }
    // A hash that came and went, or went and came back, has not changed.
    const stored: string[] = []
    const removed: string[] = []
    const first = new Map<string, boolean>()
    for (const [index, hash] of changed.entries()) {
      if (!first.has(hash)) first.set(hash, changedTo[index] === true)
    }
    for (const [hash, wasStoredFirst] of first) {
      const now = this.byHash.has(hash)
      if (now && wasStoredFirst) stored.push(hash)
      if (!now && !wasStoredFirst) removed.push(hash)
    }
    return stored.length === 0 && removed.length === 0 ? undefined : { stored, removed }
  }

  private evict(count: number): EvictedBlock[] {
    const gone: EvictedBlock[] = []
    while (gone.length < count) {
      const block = this.evictable.victim()
      if (block === undefined) break
      gone.push(this.forget(block))
    }
    return gone
  }

  /** A cached block is free from now on. */
  private forget(block: number): EvictedBlock {
    const hash = this.hashes[block]
    if (hash === undefined) throw new Error(`Block ${block} is evicted but was not stored`)
    this.note(hash, false)
    this.evictable.forget(block)
    this.byHash.delete(hash)
    this.hashes[block] = undefined
    this.countCached(block, -1)
    this.allocator.release(block)
    return { hash, block }
  }

  private countCached(block: number, change: 1 | -1): void {
    const tier = this.tierOf(block)
    this.cached[tier] = (this.cached[tier] ?? 0) + change
  }

  private note(hash: string, isStored: boolean): void {
    this.changed.push(hash)
    this.changedTo.push(isStored)
    if (!isStored) this.removals += 1
  }
}
