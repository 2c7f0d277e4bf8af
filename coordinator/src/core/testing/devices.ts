/**
 * Devices for the core's tests, as they would advertise themselves.
 */
import type { CapabilityName, DeviceFacts, LoadFacts } from '../facts.js'

export const TEST_MODEL_DIGEST = 'digest-of-a-small-model'
export const TEST_VARIANT = 'exact f32 layers 0+4'
const KV_BYTES_PER_TOKEN = 1_024
const KERNELS = ['page-bounds', 'page-scores', 'top-k', 'partial-attention', 'choose-pages']

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
    models: [
      {
        name: 'small',
        digest: device.digest ?? TEST_MODEL_DIGEST,
        profile: 'exact',
        numerics: 'f32',
        contextTokensMax: device.contextTokensMax ?? 2_048,
        kvBytesPerToken: KV_BYTES_PER_TOKEN,
        poolBytesPerToken: KV_BYTES_PER_TOKEN,
        layers: 4,
        parameters: 3_000_000,
        weightBytes: 12_000_000,
        variant: TEST_VARIANT,
        tiers: [],
        compute: [],
      },
    ],
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

/** The device's report when it is empty, or filled by others as given. */
export function testLoad(
  device: DeviceFacts,
  sequence: number,
  use: { readonly slots?: number; readonly kvTokens?: number; readonly draining?: boolean } = {},
): LoadFacts {
  return {
    deviceId: device.deviceId,
    incarnation: device.incarnation,
    sequence,
    decodeSlotsUsed: use.slots ?? 0,
    prefillTokensWaiting: 0,
    tiers: device.tiers.map((tier) => ({
      name: tier.name,
      leasedBytes: (use.kvTokens ?? 0) * KV_BYTES_PER_TOKEN,
      capacityBytes: tier.capacityBytes,
      cachedBytes: 0,
      lookups: 0,
      hits: 0,
      inBytes: 0,
      outBytes: 0,
      readBytes: 0,
      droppedBlocks: 0,
    })),
    leases: 0,
    draining: use.draining ?? false,
    models: [],
    arriving: [],
  }
}
