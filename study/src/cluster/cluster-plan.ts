/**
 * A cluster as a study describes it: catalogued devices in machines, one model, one preset. Plain data: every number
 * in it may be changed, and the results move.
 *
 * P1 Devices are in machines; a machine's devices reach each other over their own links, other machines over its network
 *    link as well.
 */
import type { DeviceModel } from '@kvasir/catalogue/device-times'
import type { LinkSpec, ModelSpec } from '@kvasir/catalogue/specs'

export type ProfileName = 'exact' | 'paper'
export type CapabilityName = 'prefill' | 'decode' | 'kv-tier'

export interface PlannedDevice {
  /** Unique in the cluster, such as gpu-0. */
  readonly deviceId: string
  /** The catalogued device with the cluster's model on it. */
  readonly model: DeviceModel
  /** In order of preference. */
  readonly capabilities: readonly CapabilityName[]
  /** Sequences that may be reserved and those that one step decodes: with more of the former, KV of the next arrives meanwhile. */
  readonly decodeSlots: number
  readonly decodesAtOnce: number
  /** Most prompt rows of one step, alone and beside decodes. */
  readonly chunkTokens: number
  readonly sharedChunkTokens: number
  /** A step that both share may take so many times as long as one that only decodes; absent: as agents do. */
  readonly sharedStepStretch?: number
  readonly tierPolicy: 'static' | 'reactive' | 'balanced'
  /** Of the link to its machine. */
  readonly link: LinkSpec
}

export interface PlannedMachine {
  readonly id: string
  readonly devices: readonly PlannedDevice[]
  /** Memory of the host that keeps KV blocks which left its devices' caches, nearest first; empty for none. */
  readonly hostTiers: readonly {
    readonly name: string
    readonly bytes: number
    readonly bytesPerSecond: number
  }[]
  readonly hostIdleWatts: number
  readonly hostDollars: number
  /** To the other machines. */
  readonly network: LinkSpec
}

export interface ClusterPlan {
  readonly name: string
  readonly model: ModelSpec
  readonly preset: string
  readonly profile: ProfileName
  /** Tokens of a KV block. */
  readonly blockTokens: number
  /** KV of a token over all layers, as it is sent. */
  readonly wireBytesPerToken: number
  /** Layers whose KV is sent together. */
  readonly mergeLayers: number
  /** From a message's sending to its handling, between any two processes, besides what its bytes take. */
  readonly messageMs: number
  readonly machines: readonly PlannedMachine[]
}
