/**
 * What the core knows of a device, as plain values: the shell translates protobuf
 * messages into these, the study writes them itself.
 *
 * Byte counts are numbers (below 2^53), an incarnation is an opaque string: it is
 * only ever compared for equality.
 */

export type Role = 'prefill' | 'decode'
export type CapabilityName = 'prefill' | 'decode' | 'kv-tier' | 'attend' | 'retrieve' | 'corpus'
export type ProfileName = 'exact' | 'paper'
export type PrecisionName = 'f32' | 'f16' | 'bf16' | 'int8' | 'int4'

export interface TierFacts {
  readonly name: string
  readonly capacityBytes: number
  readonly bytesPerSecond: number
}

export interface RateFacts {
  readonly precision: PrecisionName
  readonly opsPerSecond: number
}

/** A model as a device has it loaded: (digest, profile) names it there. */
export interface ModelFacts {
  readonly name: string
  readonly digest: string
  readonly profile: ProfileName
  /** In which numbers the device computes it, such as f32 or w4a8+kv8. */
  readonly numerics: string
  readonly contextTokensMax: number
  /** KV of one token over all layers, as it is sent. */
  readonly kvBytesPerToken: number
  /** KV of one token over all layers, as it lies in the device's memory. */
  readonly poolBytesPerToken: number
  readonly layers: number
  readonly parameters: number
  /** Weights read by one decode step. */
  readonly weightBytes: number
  /** Tokens of one KV block; 16 where absent. */
  readonly blockTokens?: number
  /** Numerics, element type and layers of its KV blocks; only blocks of one variant stand in for each other. */
  readonly variant: string
  /** Memory set aside for its KV; empty: the device's tiers. */
  readonly tiers: readonly TierFacts[]
  /** What its prefill achieves; empty: the device's rates. */
  readonly compute: readonly RateFacts[]
  /** Tokens that attention looks back in at least one layer; absent where every layer sees all. */
  readonly slidingWindowTokens?: number
}

/** A kernel of the device's driver. */
export interface KernelFacts {
  readonly name: string
  readonly version: number
  /** Largest inputs that it takes, by name; a name that is missing has no bound of its own. */
  readonly limits: Readonly<Record<string, number>>
}

export interface DeviceFacts {
  readonly deviceId: string
  readonly incarnation: string
  readonly protocolVersion: number
  readonly protocolVersionMin: number
  /** In order of preference: what is listed first is what the device is best at. */
  readonly capabilities: readonly CapabilityName[]
  readonly models: readonly ModelFacts[]
  /** Sequences that it decodes at once with each of its models. */
  readonly decodeSlots: number
  /** Nearest first. */
  readonly tiers: readonly TierFacts[]
  readonly compute: readonly RateFacts[]
  readonly kernels: readonly KernelFacts[]
  /** Rates come from a catalogue; else the device measured itself, once and in a hurry. */
  readonly modelled: boolean
  readonly link: { readonly bytesPerSecond: number; readonly latencyMs: number }
}

/** How full one tier is, and what happened in it since its agent started. */
export interface TierLoad {
  readonly name: string
  readonly leasedBytes: number
  readonly capacityBytes: number
  /** Blocks that nobody leases and that are kept for reuse. */
  readonly cachedBytes: number
  /** Full blocks of prompts that were looked for, and those of them that were found. */
  readonly lookups: number
  readonly hits: number
  /** From and to other devices and tiers. */
  readonly inBytes: number
  readonly outBytes: number
  /** By attention. */
  readonly readBytes: number
  /** Given up without a copy elsewhere. */
  readonly droppedBlocks: number
}

/** What one loaded model uses. */
export interface ModelLoad {
  readonly digest: string
  readonly profile: ProfileName
  readonly decodeSlotsUsed: number
  readonly prefillTokensWaiting: number
  readonly tiers: readonly TierLoad[]
  readonly leases: number
}

export interface LoadFacts {
  readonly deviceId: string
  readonly incarnation: string
  readonly sequence: number
  readonly decodeSlotsUsed: number
  readonly prefillTokensWaiting: number
  readonly tiers: readonly TierLoad[]
  readonly leases: number
  readonly draining: boolean
  /** Of each model; the figures above are their sums. Empty: they are those of the only model. */
  readonly models: readonly ModelLoad[]
  /** Models that are on their way to the device. */
  readonly arriving: readonly { readonly digest: string; readonly profile: ProfileName }[]
  /** Number of the last KV event that was published before; absent where the device does not say. */
  readonly kvSequence?: number
}

/** One life of a device. */
export interface DeviceRef {
  readonly deviceId: string
  readonly incarnation: string
}

const EXACT_ONLY: readonly ProfileName[] = ['exact']
const PAPER_FIRST: readonly ProfileName[] = ['paper', 'exact']

/**
 * The profiles that may serve a request, the one that it asked for first: an exact request never gets other
 * numerics; one for the paper's takes exact ones where no pair of devices can do better.
 */
export function profilesFor(asked: ProfileName): readonly ProfileName[] {
  return asked === 'exact' ? EXACT_ONLY : PAPER_FIRST
}

/** The model on this device, where it is loaded with this digest and these numerics. */
export function modelOn(device: DeviceFacts, digest: string, profile: ProfileName): ModelFacts | undefined {
  return device.models.find((model) => model.digest === digest && model.profile === profile)
}

/** Whether the device keeps KV blocks, of its own sequences or for others. */
export function holdsBlocks(device: DeviceFacts): boolean {
  return device.capabilities.some((name) => name !== 'retrieve' && name !== 'corpus')
}

/** Which of the two roles the device lists first; undefined where it lists neither. */
export function preferredRole(device: DeviceFacts): Role | undefined {
  for (const capability of device.capabilities) {
    if (capability === 'prefill' || capability === 'decode') return capability
  }
  return undefined
}
