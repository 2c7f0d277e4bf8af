/**
 * The agent that offers this machine's memory as a KV tier, as the bucket of advertisements names it.
 */
import { Advertisement, Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Bus } from '@kvasir/runtime/bus'
import type { Clock } from '@kvasir/runtime/clock'
import { BUCKET_TTL_MS, DEVICES_BUCKET } from '@kvasir/runtime/subjects'

export interface TierPeer {
  readonly deviceId: string
  /** host:port where Offer is answered. */
  readonly control: string
}

export interface HostTierWatch {
  /** Of several the one with the lowest id, so that all devices of a machine share one. */
  find(): TierPeer | undefined
  stop(): void
}

export function watchHostTier(
  bus: Bus,
  clock: Clock,
  own: { deviceId: string; machineId: string },
): HostTierWatch {
  const heard = new Map<string, { readonly control: string; readonly atMs: number }>()
  const stop = bus.bucket(DEVICES_BUCKET, { ttlMs: BUCKET_TTL_MS }).watch(({ key, value }) => {
    const control = key === own.deviceId ? undefined : controlOfTier(value, own.machineId)
    if (control === undefined) heard.delete(key)
    else heard.set(key, { control, atMs: clock.nowMs() })
  })
  return {
    find() {
      // Entries expire without an event. While NATS is away nobody is heard, and the last known stays.
      const known = [...heard].sort(([a], [b]) => (a < b ? -1 : 1))
      const fresh = known.filter(([, { atMs }]) => clock.nowMs() - atMs < BUCKET_TTL_MS)
      const [chosen] = bus.connected ? fresh : known
      return chosen === undefined ? undefined : { deviceId: chosen[0], control: chosen[1].control }
    },
    stop,
  }
}

function controlOfTier(value: unknown, machineId: string): string | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const { capabilities, machine, endpoints } = Advertisement.fromJSON(value)
  const serves = capabilities.includes(Capability.KV_TIER) && machine?.id === machineId
  return serves ? endpoints?.control : undefined
}
