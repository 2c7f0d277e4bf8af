/**
 * Which shards which devices hold, as far as this coordinator knows, and the calls that change it.
 *
 * Invariants:
 * H1. Knowledge is a guess: a device that lacks a shard says NOT_FOUND, and `gone` follows; of one that did
 *     not answer it is not known what it still holds.
 * H2. A shard is loaded once at a time; a device loads one shard at a time, and at most LOADS_MAX shards
 *     are loaded or wait for it over all devices.
 * H3. A device keeps no shard of a corpus that its plan there does not name, once it has loaded another.
 */
import type { CorpusRef } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { CancelledError, OverloadedError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { callUnary } from '@kvasir/runtime/rpc-client'
import { corpusKey } from './corpus-directory.js'
import { lifeOf, type RetrievalDevices, type RetrievalNode } from './retrieval-devices.js'
import type { ShardRange } from './shard-plan.js'

const LOAD_TIMEOUT_MS = 120_000
const UNLOAD_TIMEOUT_MS = 5_000
const LOADS_MAX = 64

export interface ShardId extends ShardRange {
  readonly corpus: CorpusRef
  readonly version: bigint
}

interface HeldShard {
  readonly shard: ShardId
  /** Not since a call to the device failed. */
  isSure: boolean
}

interface DeviceHoldings {
  /** By corpus: the shards that it holds, or may hold. */
  readonly held: Map<string, Map<string, HeldShard>>
  /** Corpora of which it holds no other shard than those. */
  readonly certain: Set<string>
  readonly loading: Map<string, Promise<void>>
  /** Ends with the last load that waits. */
  queue: Promise<void>
}

export class ShardHoldings {
  readonly #byLife = new Map<string, DeviceHoldings>()
  #loads = 0

  constructor(
    private readonly devices: RetrievalDevices,
    private readonly log: Logger,
  ) {}

  isHeld(node: RetrievalNode, shard: ShardId): boolean {
    return this.#of(node).held.get(corpusKey(shard.corpus))?.get(shardKey(shard))?.isSure ?? false
  }

  /** The device answered for the shard. */
  confirm(node: RetrievalNode, shard: ShardId): void {
    const { held } = this.#of(node)
    const key = corpusKey(shard.corpus)
    const ofCorpus = held.get(key) ?? new Map<string, HeldShard>()
    held.set(key, ofCorpus.set(shardKey(shard), { shard, isSure: true }))
  }

  /** The device said that it lacks the shard. */
  gone(node: RetrievalNode, shard: ShardId): void {
    this.#of(node).held.get(corpusKey(shard.corpus))?.delete(shardKey(shard))
  }

  /** A call to the device failed. */
  doubt(node: RetrievalNode, shard: ShardId): void {
    const held = this.#of(node).held.get(corpusKey(shard.corpus))?.get(shardKey(shard))
    if (held) held.isSure = false
  }

  /** Whether the device can hold no shard of the corpus but those known of here. */
  isCertain(node: RetrievalNode, corpus: CorpusRef): boolean {
    return this.#of(node).certain.has(corpusKey(corpus))
  }

  /**
   * Has the device fetch the shard; `planned` are all that it is to hold of this corpus at the time. Throws
   * CancelledError where the shard is not among them any more, and what the device throws: OverloadedError
   * where it has no room, NotFoundError where the owner has another version.
   */
  load(
    node: RetrievalNode,
    owner: RetrievalNode,
    shard: ShardId,
    planned: () => readonly ShardId[],
  ): Promise<void> {
    const holdings = this.#of(node)
    const key = shardKey(shard)
    const running = holdings.loading.get(key)
    if (running) return running
    if (this.#loads >= LOADS_MAX) {
      return Promise.reject(new OverloadedError('Too many shards are being loaded. Try again in a moment.'))
    }
    this.#loads += 1
    const load = holdings.queue
      .then(() => this.#load(node, owner, shard, planned))
      .finally(() => {
        this.#loads -= 1
        holdings.loading.delete(key)
      })
    holdings.queue = load.catch(() => {})
    holdings.loading.set(key, load)
    return load
  }

  /** Has the devices let go of the corpus' shards, all or those before a version. Never throws. */
  async unload(nodes: readonly RetrievalNode[], corpus: CorpusRef, beforeVersion: bigint): Promise<void> {
    await Promise.all(
      nodes.map(async (node) => {
        const { held, certain } = this.#of(node)
        const ofCorpus = held.get(corpusKey(corpus))
        const isMeant = ({ shard }: HeldShard) => beforeVersion === 0n || shard.version < beforeVersion
        for (const one of ofCorpus?.values() ?? []) if (isMeant(one)) one.isSure = false
        try {
          const request = { corpus, beforeVersion }
          await callUnary(this.devices.client(node), 'unload', request, { timeoutMs: UNLOAD_TIMEOUT_MS })
          for (const [key, one] of ofCorpus ?? []) if (isMeant(one)) ofCorpus?.delete(key)
          if (beforeVersion === 0n) certain.add(corpusKey(corpus))
        } catch (thrown) {
          const { deviceId } = node.ref
          this.log.debug({ deviceId, corpus: corpus.name, err: thrown }, 'a device did not unload shards')
        }
      }),
    )
  }

  /** The corpus is gone: a device that still holds shards of it lets go of them when it needs the room. */
  forget(corpus: CorpusRef): void {
    for (const { held, certain } of this.#byLife.values()) {
      held.delete(corpusKey(corpus))
      certain.delete(corpusKey(corpus))
    }
  }

  async #load(
    node: RetrievalNode,
    owner: RetrievalNode,
    shard: ShardId,
    planned: () => readonly ShardId[],
  ): Promise<void> {
    await this.#clear(node, shard, planned)
    const { corpus, version, firstDocument, documentCount } = shard
    const startedMs = performance.now()
    const request = {
      shard: { corpus, version, firstDocument, documentCount },
      sourceDeviceId: owner.ref.deviceId,
      sourceEndpoint: owner.kvEndpoint,
    }
    const { bytes } = await callUnary(this.devices.client(node), 'load', request, {
      timeoutMs: LOAD_TIMEOUT_MS,
    })
    this.confirm(node, shard)
    this.log.info(
      {
        deviceId: node.ref.deviceId,
        corpus: corpus.name,
        firstDocument,
        documentCount,
        bytes: Number(bytes),
        tookMs: Math.round(performance.now() - startedMs),
      },
      'a device loaded a shard',
    )
  }

  /** Makes room: older versions go, and, since single ranges cannot, everything where a range is not planned. */
  async #clear(node: RetrievalNode, shard: ShardId, planned: () => readonly ShardId[]): Promise<void> {
    const ofCorpus = [...(this.#of(node).held.get(corpusKey(shard.corpus))?.values() ?? [])].map(
      (held) => held.shard,
    )
    const wanted = new Set(planned().map(shardKey))
    if (!wanted.has(shardKey(shard))) throw new CancelledError('The shard is not wanted there any more.')
    const isPlanned = (held: ShardId) => wanted.has(shardKey(held))
    const isStray = ofCorpus.some((held) => held.version >= shard.version && !isPlanned(held))
    // Older ones may be there also where none is known, of the time before this coordinator.
    if (isStray) await this.unload([node], shard.corpus, 0n)
    else if (!ofCorpus.some(({ version }) => version === shard.version)) {
      await this.unload([node], shard.corpus, shard.version)
    }
  }

  #of(node: RetrievalNode): DeviceHoldings {
    const life = lifeOf(node.ref)
    const known = this.#byLife.get(life)
    if (known) return known
    this.#forgetLives()
    const holdings: DeviceHoldings = {
      held: new Map(),
      certain: new Set(),
      loading: new Map(),
      queue: Promise.resolve(),
    }
    this.#byLife.set(life, holdings)
    return holdings
  }

  #forgetLives(): void {
    const lives = new Set(this.devices.nodes().map(({ ref }) => lifeOf(ref)))
    for (const life of this.#byLife.keys()) if (!lives.has(life)) this.#byLife.delete(life)
  }
}

function shardKey({ corpus, version, firstDocument, documentCount }: ShardId): string {
  return `${corpusKey(corpus)} ${version} ${firstDocument}+${documentCount}`
}
