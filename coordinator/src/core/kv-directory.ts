/**
 * Which device holds which full KV block, as far as its events told: derived state, which costs time
 * where it is stale, never correctness (I6).
 *
 * D1. At most `blocksMax` distinct blocks are known, and COPIES_PER_BLOCK copies for each on average;
 *     beyond it the blocks used least recently go, and their copies are counted as dropped.
 * D2. A device holds a block in one tier at a time: what was told last.
 *
 * A match of a prompt costs a map look-up a block, whatever the number of devices: see holder-sets.ts.
 */
import { type HolderSet, HolderSets, TIERS_MAX } from './holder-sets.js'
import { RecencyList } from './recency-list.js'

const DIRECTORY_BLOCKS_MAX = 1_000_000
/** A prefix that every device holds is one block with many copies. */
const COPIES_PER_BLOCK = 4

/** Blocks of one variant, by hash. */
export interface BlockGroup {
  /** Numerics, element type and layers; blocks of another variant are of no use. */
  readonly variant: string
  readonly hashes: readonly string[]
}

/** A device with blocks of one variant. */
interface Holder {
  readonly deviceId: string
  readonly variant: string
  blocks: number
}

/** How many leading blocks of a prompt each device holds. Valid until the directory changes. */
export interface PrefixMatch {
  /** Leading blocks on the device; 0 where it has not even the first. */
  blocksOn(deviceId: string): number
  /** Devices with more than `blocks` leading blocks, the longest runs first, at most `max`. */
  longest(blocks: number, max: number): readonly { readonly deviceId: string; readonly blocks: number }[]
}

export class KvDirectory {
  readonly blocksMax: number
  readonly #sets = new HolderSets()
  readonly #recency = new RecencyList()
  readonly #slots = new Map<string, number>()
  /** By slot; undefined where the slot is free. */
  readonly #hashes: (string | undefined)[] = []
  readonly #holdersOf: (HolderSet | undefined)[] = []
  readonly #freeSlots: number[] = []
  readonly #holders: (Holder | undefined)[] = []
  readonly #freeHolders: number[] = []
  /** Ids of a device's holders, one for each variant. */
  readonly #ofDevice = new Map<string, number[]>()
  /** Names by number; the first stands for an unknown one. */
  readonly #tiers = ['']
  #copies = 0
  #dropped = 0

  constructor(blocksMax = DIRECTORY_BLOCKS_MAX) {
    this.blocksMax = blocksMax
  }

  /** Distinct blocks known. */
  get blocks(): number {
    return this.#slots.size
  }

  /** Copies that were given up to stay within the bound, since the start. */
  get droppedCopies(): number {
    return this.#dropped
  }

  blocksOn(deviceId: string): number {
    const ids = this.#ofDevice.get(deviceId) ?? []
    return ids.reduce((sum, id) => sum + (this.#holders[id]?.blocks ?? 0), 0)
  }

  store(deviceId: string, { variant, hashes }: BlockGroup, tier: string): void {
    const holder = this.#holderOf(deviceId, variant)
    const tierId = this.#tierId(tier)
    for (const hash of hashes) this.#add(hash, holder, tierId)
    this.#shrink()
  }

  /** The device does not hold them any more, in whatever variant and tier. */
  remove(deviceId: string, hashes: readonly string[]): void {
    const ids = this.#ofDevice.get(deviceId)
    if (!ids) return
    for (const hash of hashes) {
      const slot = this.#slots.get(hash)
      if (slot === undefined) continue
      for (const id of ids) this.#takeOut(slot, id)
    }
  }

  /** The device holds exactly these. Tiers that are known stay so. */
  replace(deviceId: string, groups: readonly BlockGroup[]): void {
    for (const id of this.#ofDevice.get(deviceId) ?? []) {
      const holder = this.#holders[id]
      if (!holder || holder.blocks === 0) continue
      const listed = new Set(
        groups.flatMap(({ variant, hashes }) => (variant === holder.variant ? hashes : [])),
      )
      this.#sweep(id, (hash) => listed.has(hash))
    }
    for (const { variant, hashes } of groups) {
      const holder = this.#holderOf(deviceId, variant)
      for (const hash of hashes) {
        const slot = this.#slots.get(hash)
        const isKnown = slot !== undefined && this.#holdersOf[slot]?.holders.includes(holder) === true
        if (!isKnown) this.#add(hash, holder, 0)
      }
    }
    this.#shrink()
  }

  /** The device is gone, and its memory with it. */
  dropDevice(deviceId: string): void {
    for (const id of this.#ofDevice.get(deviceId) ?? []) {
      if ((this.#holders[id]?.blocks ?? 0) > 0) this.#sweep(id, () => false)
      this.#holders[id] = undefined
      this.#freeHolders.push(id)
    }
    this.#ofDevice.delete(deviceId)
  }

  /** Tier in which the device holds the block; empty where it does not, or did not say. */
  tierOf(deviceId: string, hash: string): string {
    const slot = this.#slots.get(hash)
    const set = slot === undefined ? undefined : this.#holdersOf[slot]
    for (const id of this.#ofDevice.get(deviceId) ?? []) {
      const index = set?.holders.indexOf(id) ?? -1
      if (index >= 0) return this.#tiers[set?.tiers[index] ?? 0] ?? ''
    }
    return ''
  }

  /** Follows a prompt's blocks, the first one first; those that are met count as used. */
  match(hashes: readonly string[], variant: string): PrefixMatch {
    const runs = new Int32Array(this.#holders.length)
    let followed: readonly number[] = []
    let last: HolderSet | undefined
    let blocks = 0
    for (const hash of hashes) {
      const slot = this.#slots.get(hash)
      const set = slot === undefined ? undefined : this.#holdersOf[slot]
      if (slot === undefined || !set) break
      if (set !== last) {
        followed =
          blocks === 0
            ? set.holders.filter((id) => this.#holders[id]?.variant === variant)
            : following(followed, set.holders, runs, blocks)
        if (followed.length === 0) break
        last = set
      }
      this.#recency.use(slot)
      blocks += 1
    }
    for (const id of followed) runs[id] = blocks
    return {
      blocksOn: (deviceId) => {
        const ids = this.#ofDevice.get(deviceId) ?? []
        return ids.reduce((longest, id) => Math.max(longest, runs[id] ?? 0), 0)
      },
      longest: (min, max) => this.#longest(runs, min, max),
    }
  }

  #longest(runs: Int32Array, min: number, max: number): { deviceId: string; blocks: number }[] {
    const best: { deviceId: string; blocks: number }[] = []
    for (let id = 0; id < runs.length; id += 1) {
      const blocks = runs[id] ?? 0
      const shortest = best.length < max ? min : Math.max(min, best.at(-1)?.blocks ?? 0)
      const holder = this.#holders[id]
      if (blocks <= shortest || !holder) continue
      const at = best.findIndex((other) => other.blocks < blocks)
      best.splice(at < 0 ? best.length : at, 0, { deviceId: holder.deviceId, blocks })
      if (best.length > max) best.pop()
    }
    return best
  }

  #add(hash: string, holder: number, tier: number): void {
    const slot = this.#slots.get(hash) ?? this.#newSlot(hash)
    const before = this.#holdersOf[slot]
    const after = this.#sets.with(before, holder, tier)
    if (after.holders.length > (before?.holders.length ?? 0)) this.#count(holder, 1)
    if (after !== before) this.#setHolders(slot, after)
    this.#recency.use(slot)
  }

  #takeOut(slot: number, holder: number): void {
    const before = this.#holdersOf[slot]
    if (!before) return
    const after = this.#sets.without(before, holder)
    if (after === before) return
    this.#count(holder, -1)
    this.#setHolders(slot, after)
  }

  /** Takes a holder out of every block that `keeps` says no to. */
  #sweep(holder: number, keeps: (hash: string) => boolean): void {
    for (let slot = 0; slot < this.#hashes.length; slot += 1) {
      const hash = this.#hashes[slot]
      if (hash !== undefined && !keeps(hash)) this.#takeOut(slot, holder)
    }
  }

  #setHolders(slot: number, after: HolderSet | undefined): void {
    const before = this.#holdersOf[slot]
    if (after) this.#sets.retain(after)
    if (before) this.#sets.release(before)
    this.#holdersOf[slot] = after
    if (!after) this.#freeSlot(slot)
  }

  #count(holder: number, change: 1 | -1): void {
    this.#copies += change
    const entry = this.#holders[holder]
    if (entry) entry.blocks += change
  }

  #newSlot(hash: string): number {
    const slot = this.#freeSlots.pop() ?? this.#hashes.length
    this.#hashes[slot] = hash
    this.#holdersOf[slot] = undefined
    this.#slots.set(hash, slot)
    this.#recency.add(slot)
    return slot
  }

  #freeSlot(slot: number): void {
    const hash = this.#hashes[slot]
    if (hash !== undefined) this.#slots.delete(hash)
    this.#hashes[slot] = undefined
    this.#recency.remove(slot)
    this.#freeSlots.push(slot)
  }

  #shrink(): void {
    while (this.#slots.size > this.blocksMax || this.#copies > COPIES_PER_BLOCK * this.blocksMax) {
      const slot = this.#recency.oldest
      if (slot === undefined) return
      const holders = this.#holdersOf[slot]?.holders ?? []
      this.#dropped += holders.length
      for (const holder of holders) this.#count(holder, -1)
      this.#setHolders(slot, undefined)
    }
  }

  #holderOf(deviceId: string, variant: string): number {
    const ids = this.#ofDevice.get(deviceId) ?? []
    const known = ids.find((id) => this.#holders[id]?.variant === variant)
    if (known !== undefined) return known
    const id = this.#freeHolders.pop() ?? this.#holders.length
    this.#holders[id] = { deviceId, variant, blocks: 0 }
    this.#ofDevice.set(deviceId, [...ids, id])
    return id
  }

  #tierId(name: string): number {
    const known = this.#tiers.indexOf(name)
    if (known >= 0) return known
    if (this.#tiers.length >= TIERS_MAX) return 0
    return this.#tiers.push(name) - 1
  }
}

/** Those that also hold the next block; the runs of the others end here. Both lists ascend. */
function following(
  followed: readonly number[],
  holders: readonly number[],
  runs: Int32Array,
  blocks: number,
): readonly number[] {
  const next: number[] = []
  let at = 0
  for (const id of followed) {
    while ((holders[at] ?? Number.POSITIVE_INFINITY) < id) at += 1
    if (holders[at] === id) next.push(id)
    else runs[id] = blocks
  }
  return next
}
