/**
 * What `GET /v1/kv` shows: the tiers that devices advertise, how full they say they are, and what the
 * directory knows of their blocks.
 */
import type { Advertisement } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { DeviceView } from '../core/cluster-view.js'
import type { CoordinatorCore } from '../core/coordinator-core.js'
import { type DeviceRef, holdsBlocks } from '../core/facts.js'
import type { KvDeviceReport, KvReport } from '../generation.js'
import { tierKindName } from './tier-kind.js'

export function kvReport(
  core: CoordinatorCore,
  advertisementOf: (device: DeviceRef) => Advertisement | undefined,
  nowMs: number,
): KvReport {
  const { directory, follower, view } = core
  const devices = [...view.devices()].filter(({ facts }) => holdsBlocks(facts) && facts.tiers.length > 0)
  return {
    directory: {
      blocks: directory.blocks,
      blocksMax: directory.blocksMax,
      droppedBlocks: directory.droppedCopies,
      // One that is lost is not asked, and of no use meanwhile.
      healing: follower.healing().filter((deviceId) => view.state(deviceId, nowMs) !== 'lost'),
    },
    devices: devices
      .map((device) => ({
        deviceId: device.facts.deviceId,
        kind: advertisementOf(device.ref)?.kind ?? '',
        state: view.state(device.facts.deviceId, nowMs),
        directoryBlocks: directory.blocksOn(device.facts.deviceId),
        tiers: tierReports(device, advertisementOf(device.ref)),
      }))
      .sort((a, b) => (a.deviceId < b.deviceId ? -1 : 1)),
  }
}

function tierReports(
  { facts, load }: DeviceView,
  advertisement: Advertisement | undefined,
): KvDeviceReport['tiers'] {
  return facts.tiers.map((tier) => {
    const advertised = advertisement?.tiers.find(({ name }) => name === tier.name)
    const told = load?.tiers.find(({ name }) => name === tier.name)
    const { lookups = 0, hits = 0 } = told ?? {}
    return {
      name: tier.name,
      kind: tierKindName(advertised?.kind),
      capacityBytes: told?.capacityBytes ?? tier.capacityBytes,
      leasedBytes: told?.leasedBytes ?? 0,
      cachedBytes: told?.cachedBytes ?? 0,
      bandwidthBytesPerSecond: tier.bytesPerSecond,
      modelled: advertised?.modelled ?? false,
      lookups,
      hits,
      hitRate: lookups > 0 ? hits / lookups : null,
      inBytes: told?.inBytes ?? 0,
      outBytes: told?.outBytes ?? 0,
      readBytes: told?.readBytes ?? 0,
      droppedBlocks: told?.droppedBlocks ?? 0,
    }
  })
}
