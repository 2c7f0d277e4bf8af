/** What a device says of itself, as messages: the advertisement and the load report. */
import { BLOCK_TOKENS, type DriverDescription } from '@kvasir/engine/device-driver'
import { numericsName } from '@kvasir/engine/numerics'
import {
  type Advertisement,
  type LoadReport,
  type ModelArrival,
  Precision,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import { PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, SOFTWARE_VERSION } from '@kvasir/runtime/protocol'
import type { DeviceDefinition } from './definition.js'
import type { Device } from './device.js'
import { type OpenedTier, openedTier, type SizedTier } from './device-tiers.js'
import { basicMachine } from './machine.js'
import type { ModelMemory } from './model-memory.js'
import { cataloguedModel, cataloguedTraits } from './pace/catalogued-traits.js'
import type { Pace } from './pace/pace.js'
import type { ServedModel } from './served-model.js'
import type { DeviceService } from './services.js'
import type { AgentSettings } from './settings.js'

export interface AdvertisedDevice {
  readonly definition: DeviceDefinition
  readonly settings: AgentSettings
  readonly device: Device
  /** Of one model, or of an agent that only offers memory. */
  readonly tiers: readonly SizedTier[]
  /** What this process achieves in reading its own memory. */
  readonly copyBytesPerSecond: number
  /** Undefined for an agent that runs no models. */
  readonly memory: ModelMemory | undefined
  readonly services: readonly DeviceService[]
  /** Of each model. */
  readonly decodeSlots: number
  /** Set where the device keeps the times of a catalogued one. */
  readonly pace: Pace | undefined
}

type TierMessage = Advertisement['tiers'][number]

export function advertisementOf(
  advertised: AdvertisedDevice,
  endpoints: { readonly control: string; readonly kv: string },
): Advertisement {
  const { definition, settings, device, memory, services, decodeSlots, pace } = advertised
  const models = device.models.all.filter(({ isRetiring }) => !isRetiring)
  const corpus = corpusBytesOf(services)
  return {
    deviceId: device.deviceId,
    incarnation: device.incarnation,
    protocolVersion: PROTOCOL_VERSION,
    protocolVersionMin: PROTOCOL_VERSION_MIN,
    kind: definition.kind,
    deviceModel: device.driver?.describe().deviceModel ?? definition.deviceModel,
    machine: definition.machine ?? basicMachine(),
    capabilities: [...device.capabilities],
    tiers: deviceTiers(advertised, models),
    compute: fastestCompute(models),
    kernels: device.driver?.describe().kernels.map(kernelMessage) ?? [],
    models: models.map((model) => modelMessage(model, device.driver?.describe().name ?? '')),
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
    ...(memory === undefined ? {} : { modelBytes: BigInt(memory.limitBytes) }),
    ...(pace === undefined ? {} : cataloguedTraits(pace, models)),
  }
}

export interface ReportedState {
  readonly sequence: bigint
  readonly draining: boolean
  readonly arrivals: ModelArrival[]
}

export function loadReportOf(
  { device, services, memory, pace }: Pick<AdvertisedDevice, 'device' | 'services' | 'memory' | 'pace'>,
  { sequence, draining, arrivals }: ReportedState,
): LoadReport {
  const { deviceId, incarnation, holder } = device
  const models = device.models.all.map(modelLoad)
  const corpus = corpusBytesOf(services)
  return {
    deviceId,
    incarnation,
    sequence,
    decodeSlotsUsed: models.reduce((sum, { decodeSlotsUsed }) => sum + decodeSlotsUsed, 0),
    prefillTokensWaiting: models.reduce((sum, { prefillTokensWaiting }) => sum + prefillTokensWaiting, 0n),
    tiers: holder.fill(),
    leases: models.reduce((sum, { leases }) => sum + leases, 0),
    draining,
    models,
    arrivals,
    lastStepUs: BigInt(Math.round(Math.max(0, ...device.models.all.map(({ runner }) => runner.lastStepUs)))),
    kvSequence: device.index.lastSequence,
    ...(corpus === undefined ? {} : { corpusBytesUsed: corpus.used }),
    ...(memory === undefined ? {} : { modelBytesUsed: BigInt(memory.usedBytes) }),
    ...(pace === undefined ? {} : { paced: pace.told() }),
  }
}

function modelLoad(served: ServedModel): LoadReport['models'][number] {
  const { decodeSlotsUsed, prefillTokensWaiting, leases } = served.load()
  return {
    digest: served.model.digest,
    profile: served.profile,
    decodeSlotsUsed,
    prefillTokensWaiting: BigInt(prefillTokensWaiting),
    tiers: served.cache.fill(),
    leases,
  }
}

/** Those of all models together. */
function deviceTiers(
  { definition, tiers, copyBytesPerSecond, pace }: AdvertisedDevice,
  models: readonly ServedModel[],
): TierMessage[] {
  if (pace !== undefined && models.length === 0) return []
  const rates = { bytesPerSecond: copyBytesPerSecond }
  if (definition.driver === undefined) return tiers.map((tier) => tierMessage(openedTier(tier, 0, rates)))
  const empty = tiers.map(({ definition: own }) => openedTier({ definition: own, bytes: 0 }, 0, rates))
  return empty.map((tier) => {
    const own = models.flatMap((model) =>
      model.tiers.filter(({ definition: { name } }) => name === tier.definition.name),
    )
    if (own.length === 0) return tierMessage(tier)
    return tierMessage({
      ...tier,
      capacityBytes: own.reduce((sum, { capacityBytes }) => sum + capacityBytes, 0),
      bytesPerSecond: Math.max(...own.map(({ bytesPerSecond }) => bytesPerSecond)),
      isModelled: own.some(({ isModelled }) => isModelled === true),
    })
  })
}

function fastestCompute(models: readonly ServedModel[]): Advertisement['compute'] {
  const rates = models.map(({ rates: { opsPerSecond } }) => opsPerSecond)
  return rates.length === 0 ? [] : [computeMessage(Math.max(...rates))]
}

function computeMessage(peakOpsPerSecond: number): Advertisement['compute'][number] {
  return { precision: Precision.F32, peakOpsPerSecond }
}

function corpusBytesOf(services: readonly DeviceService[]) {
  return services.map((service) => service.corpusBytes?.()).find((bytes) => bytes !== undefined)
}

function tierMessage({ definition, capacityBytes, bytesPerSecond, isModelled }: OpenedTier): TierMessage {
  const { name, kind } = definition
  return {
    name,
    kind,
    capacityBytes: BigInt(Math.round(capacityBytes)),
    bandwidthBytesPerSecond: bytesPerSecond,
    ...(isModelled === true ? { modelled: true } : {}),
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

/** Whose driver computes bits of its own says so: a text that moves to or from it may change. */
const REFERENCE_DRIVER = 'onnxruntime-cpu'

function modelMessage(served: ServedModel, driver: string): Advertisement['models'][number] {
  const { model, profile, variant, tiers, rates, residentBytes } = served
  const { slidingWindowTokens } = model
  return {
    name: model.name,
    digest: model.digest,
    profile,
    variant,
    contextTokensMax: model.contextTokensMax,
    kvBytesPerToken: BigInt((model.layers * model.blockLayerBytes) / BLOCK_TOKENS),
    layers: { first: 0, count: model.layers },
    parameters: BigInt(model.parameters),
    weightBytes: BigInt(model.weightBytes),
    numerics: `${numericsName(model.numerics)}${driver === REFERENCE_DRIVER ? '' : `@${driver}`}`,
    poolBytesPerToken: BigInt(Math.ceil(model.poolBlockBytes / BLOCK_TOKENS)),
    tiers: tiers.map(tierMessage),
    compute: [computeMessage(rates.opsPerSecond)],
    residentBytes: BigInt(Math.round(residentBytes)),
    ...(slidingWindowTokens === undefined ? {} : { slidingWindowTokens }),
    ...(served.pace === undefined ? {} : cataloguedModel(served.pace, profile)),
  }
}
