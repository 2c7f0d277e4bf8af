/**
 * Turns what devices say on NATS (protobuf JSON) into the core's plain facts.
 *
 * Throws InvalidInputError for a message that lacks what makes it one; anything else
 * that is missing counts as zero or unknown, as in protobuf.
 */
import {
  Advertisement,
  Capability,
  LoadReport,
  Precision,
  Profile,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import type { CapabilityName, DeviceFacts, LoadFacts, PrecisionName, ProfileName } from '../core/facts.js'

const CAPABILITIES: Partial<Record<Capability, CapabilityName>> = {
  [Capability.PREFILL]: 'prefill',
  [Capability.DECODE]: 'decode',
  [Capability.KV_TIER]: 'kv-tier',
}
const PROFILES: Partial<Record<Profile, ProfileName>> = {
  [Profile.EXACT]: 'exact',
  [Profile.PAPER]: 'paper',
}
const PRECISIONS: Partial<Record<Precision, PrecisionName>> = {
  [Precision.F32]: 'f32',
  [Precision.F16]: 'f16',
  [Precision.BF16]: 'bf16',
  [Precision.INT8]: 'int8',
  [Precision.INT4]: 'int4',
}

export function readAdvertisement(json: unknown): Advertisement {
  const advertisement = read('advertisement', () => Advertisement.fromJSON(json))
  if (!advertisement.endpoints?.control) {
    throw new InvalidInputError('An advertisement names no control endpoint.', { param: 'endpoints' })
  }
  return advertisement
}

export function readLoad(json: unknown): LoadFacts {
  const report = read('load report', () => LoadReport.fromJSON(json))
  return {
    deviceId: report.deviceId,
    incarnation: String(report.incarnation),
    sequence: Number(report.sequence),
    decodeSlotsUsed: report.decodeSlotsUsed,
    prefillTokensWaiting: Number(report.prefillTokensWaiting),
    tiers: report.tiers.map((tier) => ({
      name: tier.name,
      leasedBytes: Number(tier.leasedBytes),
      capacityBytes: Number(tier.capacityBytes),
    })),
    leases: report.leases,
    draining: report.draining,
  }
}

/** Capabilities, profiles and precisions that this release does not know are left out. */
export function factsOf(advertisement: Advertisement): DeviceFacts {
  return {
    deviceId: advertisement.deviceId,
    incarnation: String(advertisement.incarnation),
    protocolVersion: advertisement.protocolVersion,
    protocolVersionMin: advertisement.protocolVersionMin,
    capabilities: advertisement.capabilities.flatMap((capability) => CAPABILITIES[capability] ?? []),
    models: advertisement.models.flatMap((model) => {
      const profile = PROFILES[model.profile]
      if (!profile) return []
      return {
        name: model.name,
        digest: model.digest,
        profile,
        contextTokensMax: model.contextTokensMax,
        kvBytesPerToken: Number(model.kvBytesPerToken),
        layers: model.layers?.count ?? 1,
        parameters: Number(model.parameters),
        weightBytes: Number(model.weightBytes),
      }
    }),
    decodeSlots: advertisement.decodeSlots,
    tiers: advertisement.tiers.map((tier) => ({
      name: tier.name,
      capacityBytes: Number(tier.capacityBytes),
      bytesPerSecond: tier.bandwidthBytesPerSecond,
    })),
    compute: advertisement.compute.flatMap((rate) => {
      const precision = PRECISIONS[rate.precision]
      return precision ? { precision, opsPerSecond: rate.peakOpsPerSecond } : []
    }),
    modelled: advertisement.modelled,
    link: {
      bytesPerSecond: advertisement.link?.bytesPerSecond ?? 0,
      latencyMs: (advertisement.link?.latencyUs ?? 0) / 1000,
    },
  }
}

function read<T extends { readonly deviceId: string; readonly incarnation: bigint }>(
  what: string,
  parse: () => T,
): T {
  let message: T
  try {
    message = parse()
  } catch (thrown) {
    throw new InvalidInputError(`A device's ${what} cannot be read: ${messageOf(thrown)}`, { cause: thrown })
  }
  if (message.deviceId === '' || message.incarnation === 0n) {
    throw new InvalidInputError(`A device's ${what} names no device or no incarnation.`, {
      param: 'device_id',
    })
  }
  return message
}
