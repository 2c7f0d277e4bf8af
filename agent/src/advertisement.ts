/** What a device says of itself, as messages: the advertisement and the load report. */
import { BLOCK_TOKENS, type DriverDescription, type LoadedModelFacts } from '@kvasir/engine/device-driver'
import {
  type Advertisement,
  type LoadReport,
  Precision,
  Profile,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import { PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, SOFTWARE_VERSION } from '@kvasir/runtime/protocol'
import type { DeviceDefinition } from './definition.js'
import type { Device } from './device.js'
import { variantOf } from './kv-shape.js'
import { basicMachine } from './machine.js'
import type { OpenedDevice, OpenedTier } from './open-device.js'
import type { DeviceService } from './services.js'
import type { AgentSettings } from './settings.js'

export interface AdvertisedDevice {
  readonly definition: DeviceDefinition
  readonly settings: AgentSettings
  readonly device: Device
  readonly opened: OpenedDevice
  readonly services: readonly DeviceService[]
  readonly decodeSlots: number
}

export function advertisementOf(
  { definition, settings, device, opened, services, decodeSlots }: AdvertisedDevice,
  endpoints: { readonly control: string; readonly kv: string },
): Advertisement {
  const { loaded, rates, tiers } = opened
  const corpus = corpusBytesOf(services)
  return {
    deviceId: device.deviceId,
    incarnation: device.incarnation,
    protocolVersion: PROTOCOL_VERSION,
    protocolVersionMin: PROTOCOL_VERSION_MIN,
    kind: definition.kind,
    deviceModel: definition.deviceModel,
    machine: definition.machine ?? basicMachine(),
    capabilities: [...definition.capabilities],
    tiers: tiers.map(tierMessage),
    compute: loaded === undefined ? [] : [{ precision: Precision.F32, peakOpsPerSecond: rates.opsPerSecond }],
    kernels: loaded?.device.describe().kernels.map(kernelMessage) ?? [],
    models: loaded === undefined ? [] : [modelMessage(loaded.model)],
    decodeSlots,
    link: { class: definition.linkClass, bytesPerSecond: settings.linkBytesPerSecond, latencyUs: 0 },
    idleWatts: 0,
    maxWatts: 0,
    priceDollars: 0,
    endpoints,
    modelled: settings.linkBytesPerSecond > 0,
    softwareVersion: SOFTWARE_VERSION,
    processId: process.pid,
    ...(corpus === undefined ? {} : { corpusBytes: corpus.capacity }),
  }
}

export function loadReportOf(
  { device, services }: Pick<AdvertisedDevice, 'device' | 'services'>,
  sequence: bigint,
): LoadReport {
  const { deviceId, incarnation, runner, holder } = device
  const load = runner.load()
  const corpus = corpusBytesOf(services)
  return {
    deviceId,
    incarnation,
    sequence,
    decodeSlotsUsed: load.decodeSlotsUsed,
    prefillTokensWaiting: BigInt(load.prefillTokensWaiting),
    tiers: holder.fill(),
    leases: load.leases,
    draining: load.draining,
    models: [],
    arrivals: [],
    lastStepUs: BigInt(Math.round(runner.lastStepUs)),
    kvSequence: device.index.lastSequence,
    ...(corpus === undefined ? {} : { corpusBytesUsed: corpus.used }),
  }
}

function corpusBytesOf(services: readonly DeviceService[]) {
  return services.map((service) => service.corpusBytes?.()).find((bytes) => bytes !== undefined)
}

function tierMessage({
  definition,
  capacityBytes,
  bytesPerSecond,
}: OpenedTier): Advertisement['tiers'][number] {
  const { name, kind, bandwidthShare } = definition
  return {
    name,
    kind,
    capacityBytes: BigInt(capacityBytes),
    bandwidthBytesPerSecond: bytesPerSecond,
    ...(bandwidthShare === undefined ? {} : { modelled: true }),
  }
}

function kernelMessage({
  name,
  version,
  limits,
}: DriverDescription['kernels'][number]): Advertisement['kernels'][number] {
  const wide = Object.entries(limits).map(([limit, value]) => [limit, BigInt(value)])
  return { name, version, limits: Object.fromEntries(wide) }
}

function modelMessage(model: LoadedModelFacts): Advertisement['models'][number] {
  return {
    name: model.name,
    digest: model.digest,
    profile: Profile.EXACT,
    variant: variantOf(model, Profile.EXACT),
    contextTokensMax: model.contextTokensMax,
    kvBytesPerToken: BigInt((model.layers * model.blockLayerBytes) / BLOCK_TOKENS),
    layers: { first: 0, count: model.layers },
    parameters: BigInt(model.parameters),
    weightBytes: BigInt(model.weightBytes),
    tiers: [],
    compute: [],
  }
}
