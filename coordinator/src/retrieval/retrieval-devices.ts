/**
 * The devices that take part in retrieval, as the coordinator sees them now, and the clients of their
 * CorpusService: one for each life of a device, so that a restarted agent inherits no broken connection.
 */
import { type Advertisement, Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import { CorpusServiceClient } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { createRpcClient } from '@kvasir/runtime/rpc-client'
import type { ClusterView, DeviceState } from '../core/cluster-view.js'
import type { DeviceRef } from '../core/facts.js'
import type { RetrievalDevice } from '../core/retrieval-plan.js'

export interface RetrievalNode {
  readonly ref: DeviceRef
  readonly facts: RetrievalDevice
  readonly state: DeviceState
  /** Keeps documents. */
  readonly isStore: boolean
  /** Searches shards. */
  readonly isSearcher: boolean
  /** Bytes that shards may take there. */
  readonly shardBytesMax: number
  readonly controlEndpoint: string
  readonly kvEndpoint: string
}

export function retrievalNodes(
  view: ClusterView,
  advertisementOf: (device: DeviceRef) => Advertisement | undefined,
  nowMs: number,
): readonly RetrievalNode[] {
  return [...view.devices()].flatMap(({ ref, facts }) => {
    const advertisement = advertisementOf(ref)
    const endpoints = advertisement?.endpoints
    if (!advertisement || !endpoints) return []
    const isStore = advertisement.capabilities.includes(Capability.CORPUS)
    const isSearcher = advertisement.capabilities.includes(Capability.RETRIEVE)
    if (!isStore && !isSearcher) return []
    return {
      ref,
      facts,
      state: view.state(ref.deviceId, nowMs),
      isStore,
      isSearcher,
      shardBytesMax: Number(advertisement.corpusBytes ?? 0n),
      controlEndpoint: endpoints.control,
      kvEndpoint: endpoints.kv,
    }
  })
}

export function lifeOf({ deviceId, incarnation }: DeviceRef): string {
  return `${deviceId}/${incarnation}`
}

export class RetrievalDevices {
  readonly #clients = new Map<string, CorpusServiceClient>()

  constructor(private readonly read: () => readonly RetrievalNode[]) {}

  /** All that are known, the lost ones too, ordered by id. */
  nodes(): readonly RetrievalNode[] {
    const nodes = [...this.read()].sort((a, b) => (a.ref.deviceId < b.ref.deviceId ? -1 : 1))
    const lives = new Set(nodes.map(({ ref }) => lifeOf(ref)))
    for (const [life, client] of this.#clients) {
      if (lives.has(life)) continue
      this.#clients.delete(life)
      client.close()
    }
    return nodes
  }

  node(deviceId: string): RetrievalNode | undefined {
    return this.nodes().find(({ ref }) => ref.deviceId === deviceId)
  }

  /** Whether this life of the device was heard a moment ago. */
  isHeard(ref: DeviceRef): boolean {
    return this.read().some(({ ref: { deviceId, incarnation }, state }) => {
      return deviceId === ref.deviceId && incarnation === ref.incarnation && state !== 'lost'
    })
  }

  client({ ref, controlEndpoint }: RetrievalNode): CorpusServiceClient {
    const open = this.#clients.get(lifeOf(ref))
    if (open) return open
    const client = createRpcClient(CorpusServiceClient, controlEndpoint, {
      channelKey: `coordinator-${ref.incarnation}`,
    })
    this.#clients.set(lifeOf(ref), client)
    return client
  }

  close(): void {
    for (const client of this.#clients.values()) client.close()
    this.#clients.clear()
  }
}
