/**
 * This machine's memory as a KV tier: takes in what its devices' caches give up, and hands it out again.
 *
 * A device offers the hashes of blocks that leave it; what is not here yet and finds room is pulled from it
 * at once, since the device keeps it only for a short while.
 *
 * Invariants:
 * H1 One pull from a device at a time and PULLS_MAX in all; what waits is bounded by the capacity.
 * H2 A block counts as held once all its bytes are here and checked. A pull that fails costs only the copy.
 */
import type { BlockHolder, BlockHolderParts, BlockLoan, KvShape } from '@kvasir/agent/block-holder'
import { LeastRecentlyUsed } from '@kvasir/agent/core/eviction-policy'
import { gone } from '@kvasir/agent/device-cache'
import { pullKv } from '@kvasir/agent/incoming-transfer'
import { hashText } from '@kvasir/agent/kv-index'
import type { Run } from '@kvasir/agent/ready-blocks'
import type { LoadReport } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { CachedBlocks, OfferRequest } from '@kvasir/proto/kvasir/kv/v1/kv'
import { recycle } from '@kvasir/runtime/bulk-buffers'
import {
  CancelledError,
  InvalidInputError,
  messageOf,
  NotFoundError,
  OverloadedError,
} from '@kvasir/runtime/errors'
import { BlockStore, blockBytesOf, blockKey, type StoredBlock } from './block-store.js'

const PULLS_MAX = 2
/** Devices whose blocks may wait to be pulled. */
const DEVICES_WAITING_MAX = 64

/** Blocks to be pulled from one device. */
interface Task {
  readonly deviceId: string
  readonly endpoint: string
  readonly shape: KvShape
  readonly hashes: readonly string[]
}

export class HostTier implements BlockHolder {
  private readonly store: BlockStore
  /** Tasks of each device, the first one under way or next. */
  private readonly tasks = new Map<string, Task[]>()
  /** Bytes of blocks that were promised to devices and are neither held nor being filled yet, by their keys. */
  private readonly promised = new Map<string, number>()
  private promisedBytes = 0
  private readonly pulling = new Set<string>()
  private readonly closed = new AbortController()
  private readonly counts = { lookups: 0, hits: 0, inBytes: 0, outBytes: 0, droppedBlocks: 0 }

  constructor(
    private readonly name: string,
    private readonly parts: BlockHolderParts,
  ) {
    const { index, settings } = parts
    this.store = new BlockStore(settings.tierBytes, new LeastRecentlyUsed(), {
      stored: ({ shape, hash }) => index.changed(shape.variant, [hash], []),
      removed: ({ shape, hash }) => {
        this.counts.droppedBlocks += 1
        index.changed(shape.variant, [], [hash])
      },
    })
  }

  lend({ modelDigest, variant, hashes: wanted }: CachedBlocks): BlockLoan {
    if (variant === undefined) {
      throw new InvalidInputError('CachedBlocks.variant is missing; set it.', { param: 'variant' })
    }
    const { store, counts } = this
    const run = store.lend(modelDigest, variant, wanted.map(hashText))
    counts.lookups += wanted.length
    counts.hits += run.length
    const [first] = run
    if (first === undefined) throw gone(this.parts.deviceId)
    const { shape } = first
    return {
      shape,
      blocks: run.length,
      read: async (wish) => partsOf(shape, run, wish),
      giveBack(received) {
        if (received) counts.outBytes += run.length * blockBytesOf(shape)
        store.giveBack(run)
      },
    }
  }

  async offered(offer: OfferRequest): Promise<string[]> {
    const { deviceId, endpoint } = offer
    const shape = shapeOffered(offer)
    const waiting = this.tasks.get(deviceId)
    if (waiting === undefined && this.tasks.size >= DEVICES_WAITING_MAX) {
      throw new OverloadedError('The host tier takes in blocks of too many devices already; drop these.', {
        ids: { deviceId },
      })
    }
    const hashes: string[] = []
    for (const hash of new Set(offer.hashes.map(hashText))) {
      // One model's blocks have the same hashes in each of its variants.
      const key = blockKey(shape, hash)
      const known = this.promised.has(key) || this.store.has(shape, hash)
      if (known || !this.fits(shape)) continue
      hashes.push(hash)
      this.promised.set(key, blockBytesOf(shape))
      this.promisedBytes += blockBytesOf(shape)
    }
    if (hashes.length > 0) {
      this.tasks.set(deviceId, [...(waiting ?? []), { deviceId, endpoint, shape, hashes }])
      // The answer goes out first, since the pull comes the other way.
      setImmediate(() => this.startPulls())
    }
    return hashes
  }

  evict(): number {
    return this.store.evictAll()
  }

  fill(): LoadReport['tiers'] {
    const { store, counts, name } = this
    return [
      {
        name,
        leasedBytes: BigInt(store.usedBytes - store.evictableBytes),
        capacityBytes: BigInt(store.capacityBytes),
        cachedBytes: BigInt(store.evictableBytes),
        counters: {
          lookups: BigInt(counts.lookups),
          hits: BigInt(counts.hits),
          inBytes: BigInt(counts.inBytes),
          outBytes: BigInt(counts.outBytes),
          readBytes: 0n,
          droppedBlocks: BigInt(counts.droppedBlocks),
        },
      },
    ]
  }

  close(): void {
    this.closed.abort(new CancelledError('The host tier is closed.'))
  }

  /** Whether one more block will find room once everything promised is here. */
  private fits(shape: KvShape): boolean {
    const { store } = this
    const taken = store.usedBytes - store.evictableBytes + this.promisedBytes
    return taken + blockBytesOf(shape) <= store.capacityBytes
  }

  private startPulls(): void {
    for (const deviceId of this.tasks.keys()) {
      if (this.pulling.size >= PULLS_MAX || this.closed.signal.aborted) return
      if (!this.pulling.has(deviceId)) void this.pullAll(deviceId)
    }
  }

  /** All that waits of one device; never rejects. */
  private async pullAll(deviceId: string): Promise<void> {
    this.pulling.add(deviceId)
    for (;;) {
      const task = this.tasks.get(deviceId)?.shift()
      if (task === undefined) break
      if (await this.pullTask(task)) continue
      // The device keeps what it offered for a short while only: with each failure waited for, all is gone at the end.
      for (const { shape, hashes } of this.tasks.get(deviceId)?.splice(0) ?? []) this.redeem(shape, hashes)
    }
    this.tasks.delete(deviceId)
    this.pulling.delete(deviceId)
    this.startPulls()
  }

  /**
   * Pulls a task's blocks; where one is gone from its device, those behind it are asked for anew. False where
   * the device does not send. Never rejects.
   */
  private async pullTask(task: Task): Promise<boolean> {
    const { log } = this.parts
    let rest = task.hashes
    let sends = true
    try {
      while (rest.length > 0 && !this.closed.signal.aborted) {
        const received = await this.pullRun(task, rest)
        this.redeem(task.shape, rest.slice(0, received + 1))
        rest = rest.slice(received + 1)
      }
    } catch (error) {
      log.warn(`blocks offered by device ${task.deviceId} could not be fetched: ${messageOf(error)}`)
      sends = error instanceof NotFoundError
    }
    this.redeem(task.shape, rest)
    return sends
  }

  /** The number of leading blocks that are held now. Throws where the pull fails. */
  private async pullRun({ deviceId, endpoint, shape }: Task, hashes: readonly string[]): Promise<number> {
    const { parts, store } = this
    const { limits } = parts
    const blocks: StoredBlock[] = []
    for (const hash of hashes) {
      const block = store.allocate(shape, hash)
      if (block === undefined) break
      this.redeem(shape, [hash])
      blocks.push(block)
    }
    let received = 0
    try {
      if (blocks.length === 0) return 0
      const kv = await pullKv({
        client: parts.kvClient(endpoint),
        sourceDeviceId: deviceId,
        wanted: { hashes: blocks.map(({ hash }) => hash) },
        shape,
        lease: { deviceId: parts.deviceId, incarnation: parts.incarnation, counter: 1n, ttlMs: 0 },
        windowBytes: limits.windowBytes,
        write: async (run, data, owned) => {
          scatter(shape, blocks, run, data)
          if (owned) recycle(data)
        },
        clock: parts.clock,
        silenceMs: limits.fetchSilenceMs,
        signal: AbortSignal.any([this.closed.signal, AbortSignal.timeout(limits.fetchMs)]),
      })
      this.counts.inBytes += kv.bytes
      received = kv.blocks
      return received
    } finally {
      for (const block of blocks.slice(0, received)) store.commit(block)
      for (const block of blocks.slice(received)) store.abandon(block)
    }
  }

  /** These have their room, or will not come. */
  private redeem(shape: KvShape, hashes: readonly string[]): void {
    for (const hash of hashes) {
      const key = blockKey(shape, hash)
      this.promisedBytes -= this.promised.get(key) ?? 0
      this.promised.delete(key)
    }
  }
}

function shapeOffered({ modelDigest, variant, blockLayerBytes }: OfferRequest): KvShape {
  if (variant?.layers === undefined) {
    throw new InvalidInputError('OfferRequest.variant is missing; set it.', { param: 'variant' })
  }
  const { count: layers } = variant.layers
  return { modelDigest, variant, layers, blockLayerBytes: Number(blockLayerBytes), boundsBytes: 0 }
}

/** The run's bytes where they stand, block by block. */
function partsOf({ blockLayerBytes }: KvShape, blocks: readonly StoredBlock[], run: Run): Buffer[] {
  const { layer, first, count } = run
  const from = layer * blockLayerBytes
  return blocks.slice(first, first + count).map(({ data }) => data.subarray(from, from + blockLayerBytes))
}

function scatter(
  { blockLayerBytes }: KvShape,
  blocks: readonly StoredBlock[],
  { layer, first, count }: Run,
  data: Uint8Array,
): void {
  for (let place = 0; place < count; place += 1) {
    const from = place * blockLayerBytes
    blocks[first + place]?.data.set(data.subarray(from, from + blockLayerBytes), layer * blockLayerBytes)
  }
}
