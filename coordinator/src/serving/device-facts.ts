/**
 * Turns what devices say on NATS (protobuf JSON) into the core's plain facts.
 *
 * Throws InvalidInputError for a message that lacks what makes it one; anything else
 * that is missing counts as zero or unknown, as in protobuf.
 */
import {
  Advertisement,
  ArrivalPhase,
  Capability,
  type ComputeRate,
  KvEvent,
  type KvVariant,
  LoadReport,
  type MemoryTier,
  Precision,
  Profile,
  type TierFill,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import type { SnapshotResponse } from '@kvasir/proto/kvasir/kv/v1/kv'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import { type BlockHashes, NO_HASHES } from '../core/block-hashes.js'
import type {
  CapabilityName,
  DeviceFacts,
  LoadFacts,
  PrecisionName,
  ProfileName,
  RateFacts,
  TierFacts,
  TierLoad,
} from '../core/facts.js'
import type { KvChange, KvSnapshot } from '../core/kv-follower.js'
import { hashesFromBase64, hashesFromBytes } from '../hash-words.js'

const CAPABILITIES: Partial<Record<Capability, CapabilityName>> = {
  [Capability.PREFILL]: 'prefill',
  [Capability.DECODE]: 'decode',
  [Capability.KV_TIER]: 'kv-tier',
  [Capability.ATTEND]: 'attend',
  [Capability.RETRIEVE]: 'retrieve',
  [Capability.CORPUS]: 'corpus',
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

export function readLoadReport(json: unknown): LoadReport {
  return read('load report', () => LoadReport.fromJSON(json))
}

export function loadFactsOf(report: LoadReport): LoadFacts {
  return {
    deviceId: report.deviceId,
    incarnation: String(report.incarnation),
    sequence: Number(report.sequence),
    decodeSlotsUsed: report.decodeSlotsUsed,
    prefillTokensWaiting: Number(report.prefillTokensWaiting),
    tiers: tierLoads(report.tiers),
    leases: report.leases,
    draining: report.draining,
    models: report.models.flatMap(({ digest, profile, ...load }) => {
      const name = PROFILES[profile]
      if (!name) return []
      return {
        digest,
        profile: name,
        decodeSlotsUsed: load.decodeSlotsUsed,
        prefillTokensWaiting: Number(load.prefillTokensWaiting),
        tiers: tierLoads(load.tiers),
        leases: load.leases,
      }
    }),
    arriving: report.arrivals.flatMap(({ digest, profile, phase }) => {
      const name = PROFILES[profile]
      return name && phase !== ArrivalPhase.FAILED ? { digest, profile: name } : []
    }),
    ...(report.kvSequence === undefined ? {} : { kvSequence: Number(report.kvSequence) }),
  }
}

function tierLoads(tiers: readonly TierFill[]): TierLoad[] {
  return tiers.map((tier) => ({
    name: tier.name,
    leasedBytes: Number(tier.leasedBytes),
    capacityBytes: Number(tier.capacityBytes),
    cachedBytes: Number(tier.cachedBytes ?? 0n),
    lookups: Number(tier.counters?.lookups ?? 0n),
    hits: Number(tier.counters?.hits ?? 0n),
    inBytes: Number(tier.counters?.inBytes ?? 0n),
    outBytes: Number(tier.counters?.outBytes ?? 0n),
    readBytes: Number(tier.counters?.readBytes ?? 0n),
    droppedBlocks: Number(tier.counters?.droppedBlocks ?? 0n),
  }))
}

export function readKvEvent(json: unknown): KvChange {
  const { stored, removed, ...rest } = hashesIn(json)
  const event = read('KV event', () => KvEvent.fromJSON(rest))
  return {
    deviceId: event.deviceId,
    incarnation: String(event.incarnation),
    sequence: Number(event.sequence),
    stored: read64(stored),
    removed: read64(removed),
    variant: variantName(event.variant),
    tier: event.tier,
  }
}

/** The parts of a snapshot of the life `incarnation`. Throws InvalidInputError where they are of another, or none. */
export function readSnapshot(parts: readonly SnapshotResponse[], incarnation: string): KvSnapshot {
  const [first] = parts
  const isOfOne = parts.every((part) => String(part.incarnation) === incarnation)
  if (!first || !isOfOne) {
    throw new InvalidInputError('A snapshot of blocks is empty or of another life of the device.')
  }
  return {
    sequence: Number(first.sequence),
    groups: parts.map(({ variant, hashes }) => ({
      variant: variantName(variant),
      hashes: hashesFromBytes(hashes),
    })),
  }
}

export function profileMessage(profile: ProfileName): Profile {
  return profile === 'exact' ? Profile.EXACT : Profile.PAPER
}

/** Undefined for one that this release does not know. */
export function profileName(profile: Profile): ProfileName | undefined {
  return PROFILES[profile]
}

/** Blocks of one variant stand in for each other; the name is only ever compared. */
function variantName(variant: KvVariant | undefined): string {
  if (!variant) return ''
  const profile = PROFILES[variant.numerics] ?? 'unknown'
  const dtype = PRECISIONS[variant.dtype] ?? 'unknown'
  return `${profile} ${dtype} layers ${variant.layers?.first ?? 0}+${variant.layers?.count ?? 0}`
}

/** A message with its hashes apart, which are too many for the general reader of JSON. */
function hashesIn(json: unknown): { readonly stored?: unknown; readonly removed?: unknown } {
  return typeof json === 'object' && json !== null ? json : {}
}

function read64(hashes: unknown): BlockHashes {
  if (hashes === undefined) return NO_HASHES
  const isText = Array.isArray(hashes) && hashes.every((hash) => typeof hash === 'string')
  if (!isText) throw new InvalidInputError("A device's KV event lists no hashes where they should be.")
  return hashesFromBase64(hashes)
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
        numerics: model.numerics ?? 'f32',
        contextTokensMax: model.contextTokensMax,
        kvBytesPerToken: Number(model.kvBytesPerToken),
        poolBytesPerToken: Number(model.poolBytesPerToken ?? model.kvBytesPerToken),
        layers: model.layers?.count ?? 1,
        parameters: Number(model.parameters),
        weightBytes: Number(model.weightBytes),
        variant: variantName(model.variant),
        tiers: tierFacts(model.tiers),
        compute: rateFacts(model.compute),
        ...(model.slidingWindowTokens === undefined
          ? {}
          : { slidingWindowTokens: model.slidingWindowTokens }),
      }
    }),
    decodeSlots: advertisement.decodeSlots,
    tiers: tierFacts(advertisement.tiers),
    compute: rateFacts(advertisement.compute),
    kernels: advertisement.kernels.map(({ name, version, limits }) => ({
      name,
      version,
      limits: Object.fromEntries(Object.entries(limits).map(([input, most]) => [input, Number(most)])),
    })),
    modelled: advertisement.modelled,
    link: {
      bytesPerSecond: advertisement.link?.bytesPerSecond ?? 0,
      latencyMs: (advertisement.link?.latencyUs ?? 0) / 1000,
    },
  }
}

function tierFacts(tiers: readonly MemoryTier[]): TierFacts[] {
  return tiers.map((tier) => ({
    name: tier.name,
    capacityBytes: Number(tier.capacityBytes),
    bytesPerSecond: tier.bandwidthBytesPerSecond,
  }))
}

function rateFacts(rates: readonly ComputeRate[]): RateFacts[] {
  return rates.flatMap((rate) => {
    const precision = PRECISIONS[rate.precision]
    return precision ? { precision, opsPerSecond: rate.peakOpsPerSecond } : []
  })
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
