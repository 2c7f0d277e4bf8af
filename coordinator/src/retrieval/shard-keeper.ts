/**
 * Keeps the shards of corpora where their plans want them: asks for the plan, loads what is missing, has
 * devices let go of what is not wanted any more.
 */
import type { CorpusRef } from '@kvasir/proto/kvasir/memory/v1/corpus'
import type { Clock } from '@kvasir/runtime/clock'
import { KvasirError, messageOf } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { retrievalWork } from '../core/retrieval-plan.js'
import { f32WorkMs } from '../core/roofline.js'
import {
  type CorpusDirectory,
  corpusKey,
  corpusOfKey,
  type KnownCorpus,
  type ReachableCorpus,
} from './corpus-directory.js'
import { lifeOf, type RetrievalDevices, type RetrievalNode } from './retrieval-devices.js'
import type { ShardHoldings, ShardId } from './shard-holdings.js'
import { type PlacedCorpus, ShardPlacement } from './shard-placement.js'
import type { PlannedShard } from './shard-plan.js'

/** Of the directory of a shard, for each distinct term. */
const BYTES_PER_TERM = 8

/** A version that searches see, which may be newer than what the owner last said of the corpus. */
export interface SeenVersion {
  readonly version: bigint
  readonly documents: bigint
}

export interface PlacedShard {
  readonly shard: ShardId
  /** The owner where no device has room. */
  readonly node: RetrievalNode
}

export interface ShardKeeperOptions {
  readonly devices: RetrievalDevices
  readonly directory: CorpusDirectory
  readonly holdings: ShardHoldings
  readonly clock: Clock
  readonly log: Logger
}

export class ShardKeeper {
  readonly #options: ShardKeeperOptions
  readonly #placement = new ShardPlacement()

  constructor(options: ShardKeeperOptions) {
    this.#options = options
  }

  /** Where the shards of this version are, or are to be. */
  async place(corpus: ReachableCorpus, seen: SeenVersion): Promise<readonly PlacedShard[]> {
    const { clock, directory, holdings } = this.#options
    if (corpus.info.version !== seen.version) await directory.refresh()
    const known = directory.known(corpus.key) ?? corpus
    const searchers = this.#searchers()
    const placed = placedCorpusOf(known, seen)
    const devices = searchers.map(({ ref, facts, shardBytesMax }) => {
      const work = retrievalWork({ documents: placed.documents, postingsBytes: placed.bytes })
      const workMs = [work.relevancy, work.retrieval].map((part) => f32WorkMs(facts, part))
      const searchMs = Math.max(
        workMs.reduce((sum, ms) => sum + ms, 0),
        1e-6,
      )
      return { deviceId: ref.deviceId, life: lifeOf(ref), shardBytesMax, searchMs }
    })
    const { shards, gaveWay } = this.#placement.place(placed, devices, clock.nowMs())
    await Promise.all(gaveWay.map((key) => holdings.unload(searchers, corpusOfKey(key), 0n)))
    return shards.map(({ deviceId, firstDocument, documentCount }) => ({
      shard: { corpus: corpus.ref, version: seen.version, firstDocument, documentCount },
      node: searchers.find(({ ref }) => ref.deviceId === deviceId) ?? corpus.owner,
    }))
  }

  /** Other devices that hold the shard. */
  holders(shard: ShardId, but: RetrievalNode): readonly RetrievalNode[] {
    return this.#searchers().filter(
      (node) => lifeOf(node.ref) !== lifeOf(but.ref) && this.#options.holdings.isHeld(node, shard),
    )
  }

  /** Has the device hold the shard. Throws what `ShardHoldings.load` throws. */
  async load(corpus: ReachableCorpus, shard: ShardId, node: RetrievalNode): Promise<void> {
    const { clock, holdings, log } = this.#options
    const planned = () => this.#plannedOn(node, shard)
    try {
      await holdings.load(node, corpus.owner, shard, planned)
    } catch (thrown) {
      if (KvasirError.from(thrown).code !== 'overloaded') throw thrown
      // Of the time before this coordinator there may be shards that no plan knows of.
      await this.#sweep(node)
      if (!holdings.isCertain(node, corpus.ref)) await holdings.unload([node], corpus.ref, 0n)
      try {
        await holdings.load(node, corpus.owner, shard, planned)
      } catch (again) {
        if (KvasirError.from(again).code === 'overloaded') {
          const device = { deviceId: node.ref.deviceId, life: lifeOf(node.ref) }
          log.info({ deviceId: device.deviceId, corpus: corpus.ref.name }, messageOf(again))
          this.#placement.refused(corpus.key, device, shard.documentCount, clock.nowMs())
        }
        throw again
      }
    }
  }

  /** Loads what the plan for the corpus wants, so that the next search finds it; never throws. */
  async prefetch(corpus: ReachableCorpus): Promise<void> {
    const { version, documents } = corpus.info
    if (documents === 0n) return
    try {
      const placed = await this.place(corpus, { version, documents })
      const missing = placed.filter(({ node }) => lifeOf(node.ref) !== lifeOf(corpus.owner.ref))
      await Promise.all(missing.map(({ shard, node }) => this.load(corpus, shard, node)))
    } catch (thrown) {
      const { log } = this.#options
      log.warn({ corpus: corpus.ref.name }, `shards were not loaded ahead of searches: ${messageOf(thrown)}`)
    }
  }

  /** The corpus is gone. Never throws. */
  async removed(ref: CorpusRef): Promise<void> {
    this.#placement.remove(corpusKey(ref))
    await this.#options.holdings.unload(this.#searchers(), ref, 0n)
    this.#options.holdings.forget(ref)
  }

  /** A call to the device failed: plans pass it over for a while. */
  failed(node: RetrievalNode): void {
    this.#placement.failed(lifeOf(node.ref), this.#options.clock.nowMs())
  }

  /** The plan in force for this version; empty where there is none yet. */
  shardsOf(key: string, version: bigint): readonly PlannedShard[] {
    return this.#placement.version(key) === version ? this.#placement.shards(key) : []
  }

  /** What the plan in force wants the device to hold of the shard's corpus. */
  #plannedOn({ ref }: RetrievalNode, { corpus, version }: ShardId): readonly ShardId[] {
    return this.shardsOf(corpusKey(corpus), version).flatMap(({ deviceId, ...range }) =>
      deviceId === ref.deviceId ? { corpus, version, ...range } : [],
    )
  }

  #searchers(): readonly RetrievalNode[] {
    return this.#options.devices.nodes().filter(({ isSearcher, state }) => isSearcher && state === 'ready')
  }

  async #sweep(node: RetrievalNode): Promise<void> {
    const { directory, holdings } = this.#options
    await directory.refresh()
    const unplanned = directory
      .all()
      .filter(({ key }) =>
        this.#placement.shards(key).every(({ deviceId }) => deviceId !== node.ref.deviceId),
      )
    for (const { ref } of unplanned) await holdings.unload([node], ref, 0n)
  }
}

/** Sizes of a version that the owner has not told yet follow from those that it told. */
function placedCorpusOf({ key, info }: KnownCorpus, seen: SeenVersion): PlacedCorpus {
  const documents = Number(seen.documents)
  const growth = info.documents === 0n ? 1 : documents / Number(info.documents)
  const bytes = Number(info.postingsBytes) * growth
  const termBytes = Math.min(bytes, Number(info.terms) * BYTES_PER_TERM)
  return { key, version: seen.version, documents, bytes, termBytes }
}
