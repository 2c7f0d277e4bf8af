/**
 * What Prometheus reads of KV memory: every tier of every device, and the directory of blocks.
 *
 * Devices count since their own start, so a counter here may fall when a device restarts, as Prometheus
 * expects of counters.
 */
import { Counter, Gauge, type Registry } from 'prom-client'
import type { GenerationService, KvDeviceReport } from '../generation.js'

type Tier = KvDeviceReport['tiers'][number]

const TIER_LABELS = ['device', 'tier', 'kind']

const FILLS: readonly [name: string, help: string, read: (tier: Tier) => number][] = [
  [
    'kvasir_tier_capacity_bytes',
    'Bytes of a memory tier that may hold KV blocks.',
    (tier) => tier.capacityBytes,
  ],
  ['kvasir_tier_leased_bytes', 'Bytes of a memory tier under lease.', (tier) => tier.leasedBytes],
  [
    'kvasir_tier_cached_bytes',
    'Bytes of KV blocks that nobody leases and that are kept for reuse.',
    (tier) => tier.cachedBytes,
  ],
]

const COUNTS: readonly [name: string, help: string, read: (tier: Tier) => number][] = [
  ['kvasir_tier_lookups_total', 'Full blocks of prompts that were looked for.', (tier) => tier.lookups],
  ['kvasir_tier_hits_total', 'Full blocks of prompts that were found.', (tier) => tier.hits],
  ['kvasir_tier_in_bytes_total', 'KV bytes from other devices or tiers.', (tier) => tier.inBytes],
  ['kvasir_tier_out_bytes_total', 'KV bytes to other devices or tiers.', (tier) => tier.outBytes],
  ['kvasir_tier_read_bytes_total', 'KV bytes that attention read.', (tier) => tier.readBytes],
  [
    'kvasir_tier_dropped_blocks_total',
    'KV blocks given up without a copy elsewhere.',
    (tier) => tier.droppedBlocks,
  ],
]

/** Returns the function that sets them, all from one reading. */
export function kvMetrics(registry: Registry, service: GenerationService): () => void {
  const registers = [registry]
  const fills = FILLS.map(([name, help, read]) => {
    return { gauge: new Gauge({ name, help, labelNames: TIER_LABELS, registers }), read }
  })
  const counts = COUNTS.map(([name, help, read]) => {
    return { counter: new Counter({ name, help, labelNames: TIER_LABELS, registers }), read }
  })
  const blocks = new Gauge({
    name: 'kvasir_kv_directory_blocks',
    help: 'KV blocks that the directory knows on each device.',
    labelNames: ['device'],
    registers,
  })
  const dropped = new Counter({
    name: 'kvasir_kv_directory_dropped_total',
    help: 'Entries of the directory given up to stay within its bound.',
    registers,
  })
  const healing = new Gauge({
    name: 'kvasir_kv_directory_healing',
    help: 'Devices whose news of blocks had a gap and whose list is on its way.',
    registers,
  })
  return () => {
    const { devices, directory } = service.kv()
    for (const { gauge } of fills) gauge.reset()
    for (const { counter } of counts) counter.reset()
    blocks.reset()
    dropped.reset()
    dropped.inc(directory.droppedBlocks)
    healing.set(directory.healing.length)
    for (const { deviceId, directoryBlocks, tiers } of devices) {
      blocks.set({ device: deviceId }, directoryBlocks)
      for (const tier of tiers) {
        const labels = { device: deviceId, tier: tier.name, kind: tier.kind }
        for (const { gauge, read } of fills) gauge.set(labels, read(tier))
        for (const { counter, read } of counts) counter.inc(labels, read(tier))
      }
    }
  }
}
