/**
 * KV blocks in this machine's memory, by model, variant and hash.
 *
 * Invariants:
 * S1 The bytes of all blocks, those that are still filled included, never exceed the capacity.
 * S2 A block is held from `commit` to its eviction; only blocks that are neither lent nor being filled are
 *    evicted, in the order of the policy.
 * S3 A block's bytes never change while it is held.
 */
import type { KvShape } from '@kvasir/agent/block-holder'
import type { EvictionPolicy } from '@kvasir/agent/core/eviction-policy'
import { variantKey } from '@kvasir/agent/kv-index'

export interface StoredBlock {
  readonly shape: KvShape
  readonly hash: string
  /** `[layer][K|V][kv head][token][head dim]` */
  readonly data: Buffer
}

export interface StoreChanges {
  stored(block: StoredBlock): void
  removed(block: StoredBlock): void
}

interface Entry extends StoredBlock {
  /** Still being filled. */
  filling: boolean
  /** Loans that it is part of. */
  loans: number
}

export class BlockStore {
  /** Bytes of blocks that could be evicted. */
  evictableBytes = 0
  private readonly entries = new Map<string, Entry>()
  private bytes = 0

  constructor(
    readonly capacityBytes: number,
    private readonly policy: EvictionPolicy,
    private readonly changes: StoreChanges,
  ) {}

  get usedBytes(): number {
    return this.bytes
  }

  /** Whether it is held or being filled. */
  has(shape: KvShape, hash: string): boolean {
    return this.entries.has(blockKey(shape, hash))
  }

  /** A block to be filled, with whatever an earlier one left in it; undefined where there is no room, even after evicting. */
  allocate(shape: KvShape, hash: string): StoredBlock | undefined {
    const key = blockKey(shape, hash)
    const bytes = blockBytesOf(shape)
    if (this.entries.has(key)) return undefined
    // Nothing is evicted for what would not fit all the same.
    if (this.bytes - this.evictableBytes + bytes > this.capacityBytes) return undefined
    let data: Buffer | undefined
    while (this.bytes + bytes > this.capacityBytes) {
      const evicted = this.evictOne()
      if (evicted?.byteLength === bytes) data = evicted
    }
    const entry: Entry = { shape, hash, data: data ?? Buffer.allocUnsafeSlow(bytes), filling: true, loans: 0 }
    this.entries.set(key, entry)
    this.bytes += bytes
    return entry
  }

  /** The block is filled and held from now on. */
  commit({ shape, hash }: StoredBlock): void {
    const entry = this.entries.get(blockKey(shape, hash))
    if (entry?.filling !== true) return
    entry.filling = false
    this.rest(entry)
    this.changes.stored(entry)
  }

  /** The block will not be filled. */
  abandon({ shape, hash }: StoredBlock): void {
    const key = blockKey(shape, hash)
    const entry = this.entries.get(key)
    if (entry?.filling !== true) return
    this.entries.delete(key)
    this.bytes -= entry.data.byteLength
  }

  /** The longest leading run that is held, which stays until `giveBack`. */
  lend(modelDigest: string, variant: KvShape['variant'], hashes: readonly string[]): StoredBlock[] {
    const run: Entry[] = []
    for (const hash of hashes) {
      const entry = this.entries.get(blockKey({ modelDigest, variant }, hash))
      if (entry === undefined || entry.filling) break
      run.push(entry)
    }
    for (const entry of run) {
      if (entry.loans === 0) {
        this.policy.forget(blockKey(entry.shape, entry.hash))
        this.evictableBytes -= entry.data.byteLength
      }
      entry.loans += 1
    }
    return run
  }

  giveBack(blocks: readonly StoredBlock[]): void {
    // From the tail to the head: a block without those before it is of no use.
    for (const { shape, hash } of [...blocks].reverse()) {
      const entry = this.entries.get(blockKey(shape, hash))
      if (entry === undefined || entry.loans === 0) continue
      entry.loans -= 1
      if (entry.loans === 0) this.rest(entry)
    }
  }

  /** Evicts whatever may go; says how many blocks that were. */
  evictAll(): number {
    let count = 0
    while (this.evictOne() !== undefined) count += 1
    return count
  }

  /** Nobody uses it just now. */
  private rest(entry: Entry): void {
    this.evictableBytes += entry.data.byteLength
    this.policy.touch(blockKey(entry.shape, entry.hash))
  }

  /** The memory of the block that went. */
  private evictOne(): Buffer | undefined {
    const key = this.policy.victim()
    const entry = key === undefined ? undefined : this.entries.get(key)
    if (key === undefined || entry === undefined) return undefined
    this.policy.forget(key)
    this.entries.delete(key)
    this.bytes -= entry.data.byteLength
    this.evictableBytes -= entry.data.byteLength
    this.changes.removed(entry)
    return entry.data
  }
}

export function blockBytesOf({ layers, blockLayerBytes }: KvShape): number {
  return layers * blockLayerBytes
}

/** Equal for equal blocks. Hashes are rooted in the model already; its digest keeps a wrong one from doing harm. */
export function blockKey(
  { modelDigest, variant }: Pick<KvShape, 'modelDigest' | 'variant'>,
  hash: string,
): string {
  return `${hash} ${modelDigest} ${variantKey(variant)}`
}
