/**
 * Devices for the core's tests, as they would advertise themselves.
 */
import type {
  CapabilityName,
  DeviceFacts,
  LoadFacts,
  ModelFacts,
  ModelLoad,
  ProfileName,
  TierLoad,
} from '../facts.js'

export const TEST_MODEL_DIGEST = 'digest-of-a-small-model'
export const TEST_VARIANT = 'exact f32 layers 0+4'
export const TEST_PAPER_VARIANT = 'paper int8 layers 0+4'
const KV_BYTES_PER_TOKEN = 1_024
const KERNELS = ['page-bounds', 'page-scores', 'top-k', 'partial-attention', 'choose-pages']

export interface TestModel {
  readonly digest?: string
  readonly profile?: ProfileName
  readonly numerics?: string
  readonly contextTokensMax?: number
  readonly slidingWindowTokens?: number
  /** Tokens of KV that are set aside for it; absent: the device's. */
  readonly kvTokens?: number
}

/** What is in use of a device with one model, or of one of its models. */
export interface TestUse {
  readonly slots?: number
  readonly kvTokens?: number
  readonly prefillTokens?: number
}

export interface TestDevice {
  readonly deviceId: string
  readonly life?: number
  readonly capabilities?: readonly CapabilityName[]
  readonly decodeSlots?: number
  readonly kvTokens?: number
  readonly opsPerSecond?: number
  readonly bytesPerSecond?: number
  readonly protocolVersion?: number
  readonly digest?: string
  readonly modelled?: boolean
  readonly linkBytesPerSecond?: number
  readonly tier?: string
  readonly latencyMs?: number
  readonly kernels?: readonly string[]
  readonly contextTokensMax?: number
  /** Default: one small model. */
  readonly models?: readonly TestModel[]
}

/** A small model as a device has it; in profile paper a token's KV takes a quarter, and more on its way. */
function testModel(device: TestDevice, model: TestModel): ModelFacts {
  const isPaper = model.profile === 'paper'
  const poolBytesPerToken = isPaper ? KV_BYTES_PER_TOKEN / 4 : KV_BYTES_PER_TOKEN
  const { slidingWindowTokens } = model
  return {
    name: 'small',
    digest: model.digest ?? device.digest ?? TEST_MODEL_DIGEST,
    profile: model.profile ?? 'exact',
    numerics: model.numerics ?? (isPaper ? 'f32+kv8' : 'f32'),
    contextTokensMax: model.contextTokensMax ?? device.contextTokensMax ?? 2_048,
    kvBytesPerToken: isPaper ? poolBytesPerToken + 32 : KV_BYTES_PER_TOKEN,
    poolBytesPerToken,
    layers: 4,
    parameters: 3_000_000,
    weightBytes: isPaper ? 3_000_000 : 12_000_000,
    variant: isPaper ? TEST_PAPER_VARIANT : TEST_VARIANT,
    tiers:
      model.kvTokens === undefined
        ? []
        : [{ name: 'hbm', capacityBytes: model.kvTokens * poolBytesPerToken, bytesPerSecond: 10e9 }],
    compute: [],
    ...(slidingWindowTokens === undefined ? {} : { slidingWindowTokens }),
  }
}

/** A device equal to every other one in speed, unless told otherwise. */
export function testDevice(device: TestDevice): DeviceFacts {
  const protocolVersion = device.protocolVersion ?? 1
  return {
    deviceId: device.deviceId,
    incarnation: `${device.deviceId}/life-${device.life ?? 1}`,
    protocolVersion,
    protocolVersionMin: protocolVersion,
    capabilities: device.capabilities ?? ['prefill', 'decode'],
    models: (device.models ?? [{}]).map((model) => testModel(device, model)),
    decodeSlots: device.decodeSlots ?? 8,
    tiers: [
      {
        name: device.tier ?? 'hbm',
        capacityBytes: (device.kvTokens ?? 65_536) * KV_BYTES_PER_TOKEN,
        bytesPerSecond: device.bytesPerSecond ?? 10e9,
      },
    ],
    compute: [{ precision: 'f32', opsPerSecond: device.opsPerSecond ?? 100e9 }],
    kernels: (device.kernels ?? KERNELS).map((name) => ({ name, version: 1, limits: {} })),
    modelled: device.modelled ?? false,
    link: { bytesPerSecond: device.linkBytesPerSecond ?? 1e9, latencyMs: device.latencyMs ?? 0.05 },
  }
}

/** The device's report when it is empty, or filled by others as given: each of its models, where it has several. */
export function testLoad(
  device: DeviceFacts,
  sequence: number,
  use: TestUse & { readonly draining?: boolean } = {},
  ofModel: (model: ModelFacts) => TestUse = () => use,
): LoadFacts {
  const models =
    device.models.length > 1 ? device.models.map((model) => modelLoad(model, ofModel(model))) : []
  return {
    deviceId: device.deviceId,
    incarnation: device.incarnation,
    sequence,
    decodeSlotsUsed: use.slots ?? 0,
    prefillTokensWaiting: use.prefillTokens ?? 0,
    tiers: device.tiers.map((tier) => {
      return tierLoad(tier.name, (use.kvTokens ?? 0) * KV_BYTES_PER_TOKEN, tier.capacityBytes)
    }),
    leases: 0,
    draining: use.draining ?? false,
    models,
    arriving: [],
  }
}

function modelLoad(model: ModelFacts, { slots = 0, kvTokens = 0, prefillTokens = 0 }: TestUse): ModelLoad {
  return {
    digest: model.digest,
    profile: model.profile,
    decodeSlotsUsed: slots,
    prefillTokensWaiting: prefillTokens,
    tiers: model.tiers.map((tier) => {
      return tierLoad(tier.name, kvTokens * model.poolBytesPerToken, tier.capacityBytes)
    }),
    leases: 0,
  }
}

function tierLoad(name: string, leasedBytes: number, capacityBytes: number): TierLoad {
  return {
    ...{ name, leasedBytes, capacityBytes, cachedBytes: 0, lookups: 0, hits: 0 },
    ...{ inBytes: 0, outBytes: 0, readBytes: 0, droppedBlocks: 0 },
  }
}
