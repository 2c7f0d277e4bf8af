/**
 * Which device holds which full KV block, as far as its events told: derived state, which costs time
 * where it is stale, never correctness (I6).
 *
 * D1. At most `blocksMax` distinct blocks are known, and COPIES_PER_BLOCK copies for each on average;
 *     beyond it the blocks used least recently go, and their copies are counted as dropped.
 * D2. A device holds a block in one tier at a time: what was told last.
 *
 * A match of a prompt costs a look-up a block, whatever the number of devices: see holder-sets.ts. It follows
 * every block up to the last hit, since a device may lack an inner one.
 */
import { type BlockHashes, HASH_WORDS, hashCount } from './block-hashes.js'
import { BlockTable } from './block-table.js'
import { type HolderSet, HolderSets, TIERS_MAX } from './holder-sets.js'
import { type HolderNames, PrefixMatch } from './prefix-match.js'
import { RecencyList } from './recency-list.js'

const DIRECTORY_BLOCKS_MAX = 1_000_000
/** A prefix that every device holds is one block with many copies. */
const COPIES_PER_BLOCK = 4

/** Blocks of one variant, by hash. */
export interface BlockGroup {
  /** Numerics, element type and layers; blocks of another variant are of no use. */
  readonly variant: string
  readonly hashes: BlockHashes
}

/** A device with blocks of one variant. */
interface Holder {
  readonly deviceId: string
  readonly variant: string
  blocks: number
}

export class KvDirectory implements HolderNames {
  readonly blocksMax: number
  readonly #table = new BlockTable()
  readonly #sets = new HolderSets()
  readonly #recency = new RecencyList()
  /** Number of the set of a block's holders, by slot; 0 where the slot is free. */
  #setIds = new Int32Array(1_024)
  readonly #holders: (Holder | undefined)[] = []
  readonly #freeHolders: number[] = []
  /** By holder; see `label`. */
  #labels = new Int32Array(64)
  readonly #labelOfDevice = new Map<string, number>()
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
    return this.#table.size
  }

  /** Copies that were given up to stay within the bound, since the start. */
  get droppedCopies(): number {
    return this.#dropped
  }

  blocksOn(deviceId: string): number {
    const ids = this.#ofDevice.get(deviceId) ?? []
    return ids.reduce((sum, id) => sum + (this.#holders[id]?.blocks ?? 0), 0)
  }

  /** Numbers a device for who asks for matches: it is told instead of the device's name, until the device is dropped. */
  label(deviceId: string, label: number): void {
    this.#labelOfDevice.set(deviceId, label)
    for (const id of this.#ofDevice.get(deviceId) ?? []) this.#labels[id] = label
  }

  deviceIdOf(holder: number): string {
    return this.#holders[holder]?.deviceId ?? ''
  }

  labelOf(holder: number): number {
    return this.#labels[holder] ?? -1
  }

  store(deviceId: string, { variant, hashes }: BlockGroup, tier: string): void {
    const holder = this.#holderOf(deviceId, variant)
    const tierId = this.#tierId(tier)
    let before = -1
    for (let at = 0; at < hashes.length; at += HASH_WORDS) {
      const slot = this.#add(this.#table.findAfter(before, hashes, at), hashes, at, holder, tierId)
      this.#table.follows(before, slot)
      before = slot
    }
    this.#shrink()
  }

  /** The device does not hold them any more, in whatever variant and tier. */
  remove(deviceId: string, hashes: BlockHashes): void {
    const ids = this.#ofDevice.get(deviceId)
    if (!ids) return
    let slot = -1
    for (let at = 0; at < hashes.length; at += HASH_WORDS) {
      slot = this.#table.findAfter(slot, hashes, at)
      if (slot >= 0) for (const id of ids) this.#takeOut(slot, id)
    }
  }

  /** The device holds exactly these. Tiers that are known stay so. */
  replace(deviceId: string, groups: readonly BlockGroup[]): void {
    for (const id of this.#ofDevice.get(deviceId) ?? []) {
      const holder = this.#holders[id]
      if (!holder || holder.blocks === 0) continue
      const listed = new Set<number>()
      for (const { variant, hashes } of groups) {
        if (variant !== holder.variant) continue
        for (let at = 0; at < hashes.length; at += HASH_WORDS) listed.add(this.#table.find(hashes, at))
      }
      this.#sweep(id, (slot) => listed.has(slot))
    }
    for (const { variant, hashes } of groups) {
      const holder = this.#holderOf(deviceId, variant)
      for (let at = 0; at < hashes.length; at += HASH_WORDS) {
        const slot = this.#table.find(hashes, at)
        const isKnown = slot >= 0 && this.#setOf(slot)?.holders.includes(holder) === true
        if (!isKnown) this.#add(slot, hashes, at, holder, 0)
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
    this.#labelOfDevice.delete(deviceId)
  }

  /** Tier in which the device holds the first of the blocks; empty where it does not, or did not say. */
  tierOf(deviceId: string, hashes: BlockHashes): string {
    const slot = hashes.length === 0 ? -1 : this.#table.find(hashes, 0)
    const set = slot < 0 ? undefined : this.#setOf(slot)
    for (const id of this.#ofDevice.get(deviceId) ?? []) {
      const index = set?.holders.indexOf(id) ?? -1
      if (index >= 0) return this.#tiers[set?.tiers[index] ?? 0] ?? ''
    }
    return ''
  }

  /** Follows a prompt's blocks, the first one first; those that are met count as used. */
  match(hashes: BlockHashes, variant: string): PrefixMatch {
    const match = new PrefixMatch(this)
    const count = hashCount(hashes)
    let followed: readonly number[] = []
    let setId = 0
    let slot = -1
    let blocks = 0
    for (; blocks < count; blocks += 1) {
      slot = this.#table.findAfter(slot, hashes, blocks * HASH_WORDS)
      if (slot < 0) break
      const nextId = this.#setIds[slot] ?? 0
      if (nextId !== setId) {
        followed = this.#following(setId === 0 ? undefined : followed, nextId, variant, match, blocks)
        if (followed.length === 0) break
        setId = nextId
      }
      this.#recency.useNext(slot)
    }
    this.#recency.endRun()
    for (const id of followed) match.add(id, blocks)
    return match
  }

  /** Those that also hold the next block; the runs of the others end here. All lists ascend. */
  #following(
    followed: readonly number[] | undefined,
    setId: number,
    variant: string,
    match: PrefixMatch,
    blocks: number,
  ): readonly number[] {
    const holders = this.#sets.get(setId)?.holders ?? []
    if (!followed) {
      const isOfVariant = (id: number): boolean => this.#holders[id]?.variant === variant
      return holders.every(isOfVariant) ? holders : holders.filter(isOfVariant)
    }
    const next: number[] = []
    let at = 0
    for (const id of followed) {
      while ((holders[at] ?? Number.POSITIVE_INFINITY) < id) at += 1
      if (holders[at] === id) next.push(id)
      else match.add(id, blocks)
    }
    return next
  }

  #add(slot: number, hashes: BlockHashes, at: number, holder: number, tier: number): number {
    const known = slot >= 0 ? slot : this.#newSlot(hashes, at)
    const before = this.#setOf(known)
    const after = this.#sets.with(before, holder, tier)
    if (after.holders.length > (before?.holders.length ?? 0)) this.#count(holder, 1)
    if (after !== before) this.#setHolders(known, after)
    this.#recency.use(known)
    return known
  }

  #takeOut(slot: number, holder: number): void {
    const before = this.#setOf(slot)
    if (!before) return
    const after = this.#sets.without(before, holder)
    if (after === before) return
    this.#count(holder, -1)
    this.#setHolders(slot, after)
  }

  /** Takes a holder out of every block that `keeps` says no to. */
  #sweep(holder: number, keeps: (slot: number) => boolean): void {
    for (let slot = 0; slot < this.#table.slots; slot += 1) {
      if (this.#setIds[slot] !== 0 && !keeps(slot)) this.#takeOut(slot, holder)
    }
  }

  #setOf(slot: number): HolderSet | undefined {
    return this.#sets.get(this.#setIds[slot] ?? 0)
  }

  #setHolders(slot: number, after: HolderSet | undefined): void {
    const before = this.#setOf(slot)
    if (after) this.#sets.retain(after)
    if (before) this.#sets.release(before)
    this.#setIds[slot] = after?.id ?? 0
    if (!after) {
      this.#table.remove(slot)
      this.#recency.remove(slot)
    }
  }

  #count(holder: number, change: 1 | -1): void {
    this.#copies += change
    const entry = this.#holders[holder]
    if (entry) entry.blocks += change
  }

  #newSlot(hashes: BlockHashes, at: number): number {
    const slot = this.#table.add(hashes, at)
    if (slot >= this.#setIds.length) this.#setIds = grown(this.#setIds)
    this.#recency.add(slot)
    return slot
  }

  #shrink(): void {
    while (this.#table.size > this.blocksMax || this.#copies > COPIES_PER_BLOCK * this.blocksMax) {
      const slot = this.#recency.oldest
      if (slot === undefined) return
      const holders = this.#setOf(slot)?.holders ?? []
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
    if (id >= this.#labels.length) this.#labels = grown(this.#labels)
    this.#labels[id] = this.#labelOfDevice.get(deviceId) ?? -1
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

function grown(array: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(2 * array.length)
  larger.set(array)
  return larger
}
