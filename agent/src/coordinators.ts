/**
 * Where traces go: the coordinator with the lowest id among those that announced
 * themselves lately. It samples, keeps and forwards; an agent decides none of that.
 */
import { CoordinatorRecord } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Bus } from '@kvasir/runtime/bus'
import type { Clock } from '@kvasir/runtime/clock'
import { BUCKET_TTL_MS, COORDINATORS_BUCKET } from '@kvasir/runtime/subjects'

export interface Coordinators {
  /** Full URL for OTLP/HTTP traces; undefined where no coordinator is known. */
  otlpUrl(): string | undefined
  stop(): void
}

export function watchCoordinators(bus: Bus, clock: Clock): Coordinators {
  const heard = new Map<string, { readonly otlpUrl: string; readonly atMs: number }>()
  const stop = bus.bucket(COORDINATORS_BUCKET, { ttlMs: BUCKET_TTL_MS }).watch(({ key, value }) => {
    if (typeof value !== 'object' || value === null) heard.delete(key)
    else heard.set(key, { otlpUrl: CoordinatorRecord.fromJSON(value).otlpUrl, atMs: clock.nowMs() })
  })
  return {
    otlpUrl() {
      // Entries expire without an event. While NATS is away nobody is heard, and the last known stays.
      const known = [...heard].sort(([a], [b]) => (a < b ? -1 : 1))
      const fresh = known.filter(([, { atMs }]) => clock.nowMs() - atMs < BUCKET_TTL_MS)
      const [, chosen] = (bus.connected ? fresh[0] : known[0]) ?? []
      return chosen === undefined || chosen.otlpUrl === '' ? undefined : `${chosen.otlpUrl}/v1/traces`
    },
    stop,
  }
}
