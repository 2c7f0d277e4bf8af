/** What the devices and hosts of a virtual cluster do, for samples, and did over a run, for its summary. */
import type { DeviceMeter, TierSums } from './device-meter.js'
import type { DeviceUsage } from './request.js'
import type { VirtualAgent } from './virtual-agent.js'
import type { VirtualHost } from './virtual-host.js'
import type { Sample } from './world.js'

/** How it stands now. */
export function deviceSample(life: VirtualAgent): Sample['devices'][number] {
  life.catchUp()
  const load = life.core.load()
  return {
    deviceId: life.id,
    slotsUsed: load.decodeSlotsUsed,
    queueTokens: load.prefillTokensWaiting,
    busy: life.isBusy && !life.isDead,
    tiers: load.tiers,
  }
}

/** What one life of a device counted of its memories, by their names. */
export function tierSums({ core, blockBytes }: VirtualAgent): ReadonlyMap<string, TierSums> {
  return new Map(
    core.load().tiers.map(({ name, lookups, hits, readBytes, inBlocks, outBlocks }) => {
      const inBytes = inBlocks * blockBytes
      return [name, { lookups, hits, readBytes, inBytes, outBytes: outBlocks * blockBytes }]
    }),
  )
}

/** Of all its lives, of which `life` is the last. */
export function deviceUsage(life: VirtualAgent, meter: DeviceMeter, virtualMs: number): DeviceUsage {
  const { device } = life.planned.model
  const busyMs = meter.prefillMs + meter.decodeMs
  const idleMs = Math.max(0, virtualMs - busyMs)
  const sums = tierSums(life)
  return {
    deviceId: life.id,
    device: device.name,
    steps: meter.steps,
    busyMs,
    prefillMs: meter.prefillMs,
    decodeMs: meter.decodeMs,
    prefillTokens: meter.prefillTokens,
    decodeTokens: meter.decodeTokens,
    energyJ: meter.stepJ + ((device.idleWatts ?? Number.NaN) * idleMs) / 1_000,
    dollars: device.dollars ?? Number.NaN,
    tiers: life.facts.tiers.map(({ name }) => ({ name, ...meter.tierSums(name, sums.get(name)) })),
    sentBytes: meter.sentBytes,
    receivedBytes: meter.receivedBytes,
  }
}

export function hostUsage(host: VirtualHost, virtualMs: number): DeviceUsage {
  const { hostIdleWatts, hostDollars } = host.planned
  return {
    deviceId: host.id,
    device: 'host memory',
    ...{ steps: 0, busyMs: 0, prefillMs: 0, decodeMs: 0, prefillTokens: 0, decodeTokens: 0 },
    energyJ: (hostIdleWatts * virtualMs) / 1_000,
    dollars: hostDollars,
    tiers: host.tierLoads().map(({ name, lookups, hits, readBytes, inBytes, outBytes }) => {
      return { name, lookups, hits, readBytes, inBytes, outBytes }
    }),
    sentBytes: host.sentBytes,
    receivedBytes: host.receivedBytes,
  }
}
