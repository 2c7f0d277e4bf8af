/**
 * What `GET /v1/cluster` shows of the devices: what they advertise, joined with what
 * the core believes of them now.
 */
import type { Advertisement } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { ClusterView, DeviceView } from '../core/cluster-view.js'
import type { DeviceRef } from '../core/facts.js'
import type { DeviceReport } from '../generation.js'
import { tierKindName } from './tier-kind.js'

export function deviceReports(
  view: ClusterView,
  advertisementOf: (device: DeviceRef) => Advertisement | undefined,
  nowMs: number,
): DeviceReport[] {
  const reports = [...view.devices()].map((device) => {
    const state = view.state(device.facts.deviceId, nowMs)
    return deviceReport(device, advertisementOf(device.ref), state, nowMs)
  })
  return reports.sort((a, b) => (a.deviceId < b.deviceId ? -1 : 1))
}

function deviceReport(
  device: DeviceView,
  advertisement: Advertisement | undefined,
  state: DeviceReport['state'],
  nowMs: number,
): DeviceReport {
  const { facts, load } = device
  return {
    deviceId: facts.deviceId,
    incarnation: facts.incarnation,
    kind: advertisement?.kind ?? '',
    deviceModel: advertisement?.deviceModel ?? '',
    machine: advertisement?.machine?.hostname || (advertisement?.machine?.id ?? ''),
    state,
    capabilities: [...facts.capabilities],
    models: facts.models.map(({ name, digest, profile }) => ({ name, digest, profile })),
    decodeSlots: facts.decodeSlots,
    decodeSlotsUsed: load?.decodeSlotsUsed ?? 0,
    prefillTokensWaiting: load?.prefillTokensWaiting ?? 0,
    leases: load?.leases ?? 0,
    tiers: facts.tiers.map((tier) => ({
      name: tier.name,
      kind: tierKindName(advertisement?.tiers.find(({ name }) => name === tier.name)?.kind),
      capacityBytes: tier.capacityBytes,
      leasedBytes: load?.tiers.find(({ name }) => name === tier.name)?.leasedBytes ?? 0,
      bandwidthBytesPerSecond: tier.bytesPerSecond,
    })),
    link: { class: advertisement?.link?.class ?? '', bytesPerSecond: facts.link.bytesPerSecond },
    modelled: advertisement?.modelled ?? false,
    // Never heard is said as never, in a number that JSON can carry.
    lastHeardMs: Number.isFinite(device.heardAtMs) ? Math.round(nowMs - device.heardAtMs) : -1,
    endpoints: {
      control: advertisement?.endpoints?.control ?? '',
      kv: advertisement?.endpoints?.kv ?? '',
    },
  }
}
