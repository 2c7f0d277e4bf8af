/**
 * What the serving side tells of models, and what it can be asked to do about them. Nothing of HTTP or NATS
 * crosses this line.
 */
import type { ProfileName } from './core/facts.js'

/** What all devices that have a model agree on, and in which numerics they have it. */
export interface ModelTraits {
  readonly profiles: readonly ProfileName[]
  /** Tokens that attention looks back in at least one layer; null where every layer sees all. */
  readonly slidingWindowTokens: number | null
}

/** A model of the cluster. One name may stand for two digests, each with a report. */
export interface ModelReport {
  readonly name: string
  /** Empty where it is not known yet. */
  readonly digest: string
  /** Null before a device has it. */
  readonly contextTokensMax: number | null
  /** In which devices have it. */
  readonly profiles: readonly ProfileName[]
  /** What requests may ask for now: live devices can serve it so, or in what stands in for it, from prompt to last token. */
  readonly servedProfiles: readonly ProfileName[]
  /** Those that can be reached. */
  readonly devices: readonly ModelOnDevice[]
}

/** A model on one device, or on its way there. */
export interface ModelOnDevice {
  readonly deviceId: string
  readonly profile: ProfileName
  readonly state: 'loaded' | 'fetching' | 'loading' | 'failed'
  /** In which numbers it computes and keeps KV, such as w4a8+kv8; null before it is loaded. */
  readonly numerics: string | null
  /** Memory of its weights and for its KV; null before it is loaded. */
  readonly weightBytes: number | null
  readonly kvBytes: number | null
  /** On the way: bytes that are there, of so many; both 0 where not known yet, and where it is loaded. */
  readonly bytes: number
  readonly bytesTotal: number
  /** The device its files come from; null where they were there. */
  readonly sourceDeviceId: string | null
  /** Why it failed, one sentence. */
  readonly error: string | null
}

export interface LoadOrder {
  /** As the device finds it, or the name under which another device serves it. */
  readonly model: string
  /** Digest that it must have; empty takes what is found. */
  readonly digest: string
  readonly profile: ProfileName
  /** For its KV in the nearest tier; 0 leaves it to the device. */
  readonly kvBytes: number
}

export interface LoadAnswer {
  readonly deviceId: string
  /** Why the device will not, one sentence. */
  readonly error: string | null
}

export interface UnloadOrder {
  readonly deviceId: string
  readonly digest: string
  readonly profile: ProfileName
}

export interface UnloadAnswer extends LoadAnswer {
  readonly profile: ProfileName
}

/** The name under which a model is served that was asked for by a path, a file or a name. */
export function servedName(asked: string): string {
  if (asked.startsWith('dummy:')) return asked
  const base = asked.replace(/\/+$/, '').split('/').at(-1) ?? asked
  return base.replace(/\.gguf$/i, '')
}

/** A model that a device has loaded. */
export interface DeviceModelReport {
  readonly name: string
  readonly digest: string
  readonly profile: ProfileName
  /** In which numbers it computes and keeps KV, such as w4a8+kv8. */
  readonly numerics: string
  readonly contextTokensMax: number
  readonly weightBytes: number
  readonly kvBytes: number
  readonly decodeSlotsUsed: number
}

export interface ModelArrivalReport
  extends Pick<ModelOnDevice, 'profile' | 'bytes' | 'bytesTotal' | 'sourceDeviceId' | 'error'> {
  readonly name: string
  readonly digest: string
  readonly state: Exclude<ModelOnDevice['state'], 'loaded'>
}
