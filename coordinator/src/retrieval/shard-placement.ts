/**
 * The shard plans of all corpora, which share the devices' room. Pure: the shell loads and unloads.
 *
 * A corpus takes the room that the others leave. Where that is too little, corpora that nobody has searched
 * for IDLE_MS give way, the one searched longest ago first.
 *
 * Invariants:
 * R1. The plans together take at most the room of each device.
 * R2. A plan belongs to one version; the next version is planned anew.
 * R3. A device that refused a shard for lack of room, or failed, is believed for a while only.
 */
import { type PlannedShard, planShards, type ShardedCorpus, shardBytes } from './shard-plan.js'

/** A corpus that was not searched for so long gives way to one that is. */
export const IDLE_MS = 60_000
/** A device that failed is passed over for so long. */
export const AVOID_MS = 5_000
/** A device is not asked again for so long to hold more than it refused. */
const REFUSED_MS = 10_000
/** After a refusal a shard of this part of it is tried. */
const REFUSED_SHARE = 0.8

/** One life of a device that could hold shards. */
export interface PlacementDevice {
  readonly deviceId: string
  readonly life: string
  readonly shardBytesMax: number
  /** Predicted time to search all of the corpus there. */
  readonly searchMs: number
}

type RefusingDevice = Pick<PlacementDevice, 'deviceId' | 'life'>

export interface PlacedCorpus extends ShardedCorpus {
  /** Unique over all tenants. */
  readonly key: string
  readonly version: bigint
}

export interface Placement {
  readonly shards: readonly PlannedShard[]
  /** Corpora that gave way, by key. */
  readonly gaveWay: readonly string[]
}

interface Entry {
  readonly corpus: PlacedCorpus
  shards: readonly PlannedShard[]
  usedAtMs: number
}

interface Refusal {
  readonly bytesMax: number
  readonly untilMs: number
}

export class ShardPlacement {
  readonly #entries = new Map<string, Entry>()
  /** By corpus and life of a device. */
  readonly #refusals = new Map<string, Refusal>()
  /** By life of a device. */
  readonly #avoided = new Map<string, number>()

  /** The plan for this corpus and the devices that are there now. */
  place(corpus: PlacedCorpus, devices: readonly PlacementDevice[], nowMs: number): Placement {
    this.#forgetOld(nowMs)
    const usable = devices.filter(({ life }) => !this.#avoided.has(life))
    const before = this.#entries.get(corpus.key)
    const previous = before?.corpus.version === corpus.version ? before.shards : []
    const gaveWay: string[] = []
    for (;;) {
      const shards = planShards(
        corpus,
        usable.map((device) => ({
          deviceId: device.deviceId,
          searchMs: device.searchMs,
          roomBytes: this.#room(corpus.key, device),
        })),
        previous,
      )
      const lacksRoom = shards.some(({ deviceId }) => deviceId === null)
      const idle = lacksRoom ? this.#longestIdle(corpus.key, usable, nowMs) : undefined
      if (idle === undefined) {
        this.#entries.set(corpus.key, { corpus, shards, usedAtMs: nowMs })
        return { shards, gaveWay }
      }
      gaveWay.push(idle)
      this.#entries.delete(idle)
    }
  }

  /** The plan in force. */
  shards(key: string): readonly PlannedShard[] {
    return this.#entries.get(key)?.shards ?? []
  }

  version(key: string): bigint | undefined {
    return this.#entries.get(key)?.corpus.version
  }

  remove(key: string): void {
    this.#entries.delete(key)
  }

  /** The device had no room for a shard of so many documents, beside what the plan wants there. */
  refused(key: string, { deviceId, life }: RefusingDevice, documents: number, nowMs: number): void {
    const entry = this.#entries.get(key)
    if (!entry) return
    const bytes = shardBytes(entry.corpus, documents)
    const planned = Math.max(bytes, bytesOn(entry, deviceId))
    const bytesMax = planned - Math.ceil(bytes * (1 - REFUSED_SHARE))
    this.#refusals.set(`${key} ${life}`, { bytesMax, untilMs: nowMs + REFUSED_MS })
  }

  /** A call to the device failed. */
  failed(life: string, nowMs: number): void {
    this.#avoided.set(life, nowMs + AVOID_MS)
  }

  #room(key: string, { deviceId, life, shardBytesMax }: PlacementDevice): number {
    let roomBytes = shardBytesMax
    for (const [other, entry] of this.#entries) {
      if (other !== key) roomBytes -= bytesOn(entry, deviceId)
    }
    return Math.min(roomBytes, this.#refusals.get(`${key} ${life}`)?.bytesMax ?? roomBytes)
  }

  #longestIdle(key: string, devices: readonly PlacementDevice[], nowMs: number): string | undefined {
    let longest: { readonly key: string; readonly usedAtMs: number } | undefined
    for (const [other, entry] of this.#entries) {
      if (other === key || nowMs - entry.usedAtMs < IDLE_MS) continue
      if (!devices.some(({ deviceId }) => bytesOn(entry, deviceId) > 0)) continue
      if (!longest || entry.usedAtMs < longest.usedAtMs) longest = { key: other, usedAtMs: entry.usedAtMs }
    }
    return longest?.key
  }

  #forgetOld(nowMs: number): void {
    for (const [key, { untilMs }] of this.#refusals) if (untilMs <= nowMs) this.#refusals.delete(key)
    for (const [life, untilMs] of this.#avoided) if (untilMs <= nowMs) this.#avoided.delete(life)
  }
}

function bytesOn({ corpus, shards }: Entry, deviceId: string): number {
  return shards.reduce((sum, shard) => {
    return shard.deviceId === deviceId ? sum + shardBytes(corpus, shard.documentCount) : sum
  }, 0)
}
