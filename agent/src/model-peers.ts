/** The agents of the cluster that serve a model, as the bucket of advertisements names them. */
import { Advertisement, type LoadedModel } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Bus } from '@kvasir/runtime/bus'
import type { Clock } from '@kvasir/runtime/clock'
import { BUCKET_TTL_MS, DEVICES_BUCKET } from '@kvasir/runtime/subjects'

/** An agent that serves a model, and perhaps has its files. */
export interface ModelPeer {
  readonly deviceId: string
  /** host:port where ModelService is. */
  readonly endpoint: string
  /** On the same machine. */
  readonly isNear: boolean
  readonly model: LoadedModel
}

export interface ModelPeers {
  /** Those that serve a model of this name, and digest unless it is empty; the nearest first. */
  find(name: string, digest: string): readonly ModelPeer[]
  /** Calls `listener` when others may be found. Returns a function that stops it. */
  onChange(listener: () => void): () => void
}

export type ModelPeersWatch = ModelPeers & { stop(): void }

export function watchModelPeers(
  bus: Bus,
  clock: Clock,
  own: { readonly deviceId: string; readonly machineId: string },
): ModelPeersWatch {
  const heard = new Map<string, { readonly peers: readonly ModelPeer[]; readonly atMs: number }>()
  const listeners = new Set<() => void>()
  const stop = bus.bucket(DEVICES_BUCKET, { ttlMs: BUCKET_TTL_MS }).watch(({ key, value }) => {
    if (key === own.deviceId) return
    const peers = peersOf(value, own.machineId)
    if (peers.length === 0) heard.delete(key)
    else heard.set(key, { peers, atMs: clock.nowMs() })
    for (const listener of [...listeners]) listener()
  })
  return {
    find(name, digest) {
      // Entries expire without an event. While NATS is away nobody is heard, and the last known stay.
      const fresh = [...heard.values()].filter(
        ({ atMs }) => !bus.connected || clock.nowMs() - atMs < BUCKET_TTL_MS,
      )
      return fresh
        .flatMap(({ peers }) => peers)
        .filter(({ model }) => (digest === '' ? model.name === name : model.digest === digest))
        .sort((a, b) => Number(b.isNear) - Number(a.isNear))
    },
    onChange(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    stop,
  }
}

/** One a model: what it serves in two profiles has the same files. */
function peersOf(value: unknown, machineId: string): ModelPeer[] {
  if (typeof value !== 'object' || value === null) return []
  const { deviceId, endpoints, machine, models } = Advertisement.fromJSON(value)
  if (endpoints === undefined || endpoints.kv === '') return []
  const { kv: endpoint } = endpoints
  const byDigest = new Map(models.map((model) => [model.digest, model]))
  return [...byDigest.values()].map((model) => ({
    deviceId,
    endpoint,
    isNear: machine?.id === machineId,
    model,
  }))
}
