/**
 * The books of a device that holds shards: how many bytes which shard takes, and which may go for another.
 *
 * Invariants:
 * H1 Shards held and shards on their way never take more than the capacity together.
 * H2 A shard goes for another only where nobody searches it, and where it belongs to an earlier version
 *    of the same corpus or was not searched for some time. Who still wants it loads it again: shards are
 *    derived, and a coordinator that forgot them must not cost the device its room for ever.
 */
import type { Clock } from '@kvasir/runtime/clock'
import { OverloadedError } from '@kvasir/runtime/errors'
import type { CheckedShard } from './shard-requests.js'

/** A shard that was not searched for this long may go for one that is wanted now. */
const IDLE_MS = 60_000

interface Held {
  readonly shard: CheckedShard
  readonly bytes: number
  usedAtMs: number
  searches: number
  /** It is still on its way. */
  loading: boolean
}

export class ShardShelf {
  private readonly shards = new Map<string, Held>()
  private used = 0

  constructor(
    readonly capacity: number,
    private readonly clock: Clock,
  ) {}

  get usedBytes(): number {
    return this.used
  }

  /** Its bytes; undefined where it is not held. */
  bytesOf(key: string): number | undefined {
    const held = this.shards.get(key)
    return held === undefined || held.loading ? undefined : held.bytes
  }

  /**
   * Makes room for a shard that is on its way, and counts it.
   * @returns keys of the shards that must go for it
   * @throws OverloadedError where there is no room and nothing may go
   */
  reserve(shard: CheckedShard, bytes: number): string[] {
    const gone: string[] = []
    for (const held of this.expendable(shard)) {
      if (this.used + bytes <= this.capacity) break
      // Only where it helps: a shard that does not fit costs nobody else's.
      if (this.used - this.expendableBytes(shard) + bytes > this.capacity) break
      this.remove(held.shard.key)
      gone.push(held.shard.key)
    }
    if (this.used + bytes > this.capacity) {
      throw new OverloadedError(
        `The shard takes ${bytes} bytes, and ${this.capacity - this.used} of the ${this.capacity} bytes for shards are free; choose another device, or raise shardBytes.`,
        { param: 'shardBytes' },
      )
    }
    const usedAtMs = this.clock.nowMs()
    this.shards.set(shard.key, { shard, bytes, usedAtMs, searches: 0, loading: true })
    this.used += bytes
    return gone
  }

  /** It has arrived. */
  arrived(key: string): void {
    const held = this.shards.get(key)
    if (held !== undefined) held.loading = false
  }

  /** Begins a search: the shard stays until the returned function is called. Undefined where it is not held. */
  search(key: string): (() => void) | undefined {
    const held = this.shards.get(key)
    if (held === undefined || held.loading) return undefined
    held.searches += 1
    return () => {
      held.searches -= 1
      held.usedAtMs = this.clock.nowMs()
    }
  }

  /** Keys of the shards of a corpus of versions before one; of all versions where it is 0. */
  keysOf(corpusKey: string, beforeVersion: bigint): string[] {
    return [...this.shards.values()]
      .filter(({ shard }) => shard.corpusKey === corpusKey)
      .filter(({ shard }) => beforeVersion === 0n || shard.version < beforeVersion)
      .map(({ shard }) => shard.key)
  }

  /** @returns the bytes that became free */
  remove(key: string): number {
    const held = this.shards.get(key)
    if (held === undefined) return 0
    this.shards.delete(key)
    this.used -= held.bytes
    return held.bytes
  }

  /** Earlier versions of the same corpus first, then what was not searched for longest. */
  private expendable(wanted: CheckedShard): Held[] {
    const idleSinceMs = this.clock.nowMs() - IDLE_MS
    const isOld = ({ shard }: Held) => shard.corpusKey === wanted.corpusKey && shard.version < wanted.version
    return [...this.shards.values()]
      .filter((held) => !held.loading && held.searches === 0 && (isOld(held) || held.usedAtMs <= idleSinceMs))
      .sort((a, b) => Number(isOld(b)) - Number(isOld(a)) || a.usedAtMs - b.usedAtMs)
  }

  private expendableBytes(wanted: CheckedShard): number {
    return this.expendable(wanted).reduce((sum, { bytes }) => sum + bytes, 0)
  }
}
