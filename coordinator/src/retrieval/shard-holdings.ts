/**
 * Which shards which devices hold, as far as this coordinator knows, and the calls that change it.
 *
 * Invariants:
 * H1. Knowledge is a guess: a device that lacks a shard says NOT_FOUND, and `forget` follows.
 * H2. A shard is loaded once at a time; a device loads one shard at a time, and at most LOADS_MAX shards
 *     are loaded or wait for it over all devices.
 * H3. A device keeps no shard of a corpus that its plan there does not name, once it has loaded another.
 */
import type { CorpusRef } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { OverloadedError } from '@kvasir/runtime/errors'
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

interface DeviceHoldings {
  /** By corpus: the shards that it is known to hold. */
  readonly held: Map<string, Map<string, ShardId>>
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
    return this.#of(node).held.get(corpusKey(shard.corpus))?.has(shardKey(shard)) ?? false
  }

  /** The device answered for the shard. */
  confirm(node: RetrievalNode, shard: ShardId): void {
    const { held } = this.#of(node)
    const key = corpusKey(shard.corpus)
    held.set(key, (held.get(key) ?? new Map<string, ShardId>()).set(shardKey(shard), shard))
  }

  forget(node: RetrievalNode, shard: ShardId): void {
    this.#of(node).held.get(corpusKey(shard.corpus))?.delete(shardKey(shard))
  }

  /**
   * Has the device fetch the shard; `planned` are all that it is to hold of this corpus. Throws what the
   * device throws: OverloadedError where it has no room, NotFoundError where the owner has another version.
   */
  load(
    node: RetrievalNode,
    owner: RetrievalNode,
    shard: ShardId,
    planned: readonly ShardId[],
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
        const ofCorpus = this.#of(node).held.get(corpusKey(corpus))
        for (const [key, { version }] of ofCorpus ?? []) {
          if (beforeVersion === 0n || version < beforeVersion) ofCorpus?.delete(key)
        }
        try {
          const request = { corpus, beforeVersion }
          await callUnary(this.devices.client(node), 'unload', request, { timeoutMs: UNLOAD_TIMEOUT_MS })
        } catch (thrown) {
          const { deviceId } = node.ref
          this.log.debug({ deviceId, corpus: corpus.name, err: thrown }, 'a device did not unload shards')
        }
      }),
    )
  }

  async #load(
    node: RetrievalNode,
    owner: RetrievalNode,
    shard: ShardId,
    planned: readonly ShardId[],
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
  async #clear(node: RetrievalNode, shard: ShardId, planned: readonly ShardId[]): Promise<void> {
    const ofCorpus = [...(this.#of(node).held.get(corpusKey(shard.corpus))?.values() ?? [])]
    const isPlanned = (held: ShardId) => planned.some((one) => shardKey(one) === shardKey(held))
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
    const holdings: DeviceHoldings = { held: new Map(), loading: new Map(), queue: Promise.resolve() }
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
