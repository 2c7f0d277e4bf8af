/**
 * What `GET /v1/cluster` shows of the devices: what they advertise, joined with what
 * the core believes of them now.
 */
import type { Advertisement, LoadReport } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { ClusterView, DeviceView } from '../core/cluster-view.js'
import type { DeviceReport } from '../generation.js'
import { modelsOn, type Said } from './cluster-models.js'
import { tierKindName } from './tier-kind.js'

export function deviceReports(view: ClusterView, said: Said, nowMs: number): DeviceReport[] {
  const reports = [...view.devices()].map((device) => {
    const state = view.state(device.facts.deviceId, nowMs)
    return deviceReport(device, said, state, nowMs)
  })
  return reports.sort((a, b) => (a.deviceId < b.deviceId ? -1 : 1))
}

function deviceReport(
  device: DeviceView,
  said: Said,
  state: DeviceReport['state'],
  nowMs: number,
): DeviceReport {
  const { facts, load } = device
  const advertisement = said.advertisement(device.ref)
  const { loaded, arrivals } = modelsOn(device, said)
  return {
    deviceId: facts.deviceId,
    incarnation: facts.incarnation,
    kind: advertisement?.kind ?? '',
    deviceModel: advertisement?.deviceModel ?? '',
    machine: advertisement?.machine?.hostname || (advertisement?.machine?.id ?? ''),
    state,
    capabilities: [...facts.capabilities],
    models: loaded,
    arrivals,
    modelBytes: numberOrNull(advertisement?.modelBytes),
    modelBytesUsed: numberOrNull(said.loadReport(device.ref)?.modelBytesUsed),
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
    pace: paceReport(advertisement, said.loadReport(device.ref)),
    // Never heard is said as never, in a number that JSON can carry.
    lastHeardMs: Number.isFinite(device.heardAtMs) ? Math.round(nowMs - device.heardAtMs) : -1,
    endpoints: {
      control: advertisement?.endpoints?.control ?? '',
      kv: advertisement?.endpoints?.kv ?? '',
    },
  }
}

function paceReport(
  advertisement: Advertisement | undefined,
  report: LoadReport | undefined,
): DeviceReport['pace'] {
  if (advertisement?.pace === undefined) return null
  const { device, model, preset, kvTokens, cataloguedKvTokens } = advertisement.pace
  const { steps = 0n, lateSteps = 0n, lateUs = 0n, busyUs = 0n } = report?.paced ?? {}
  return {
    ...{ device, model, preset },
    kvTokens: Number(kvTokens),
    cataloguedKvTokens: Number(cataloguedKvTokens),
    steps: Number(steps),
    lateSteps: Number(lateSteps),
    lateMs: Number(lateUs) / 1_000,
    busyMs: Number(busyUs) / 1_000,
  }
}

function numberOrNull(value: bigint | undefined): number | null {
  return value === undefined ? null : Number(value)
}
