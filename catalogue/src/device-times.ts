/**
 * How long a catalogued device takes: a roofline with published utilisations,
 * `t = max(operations / (peak · utilisation), bytes / (bandwidth · utilisation))`, in the form of the analytical model of
 * GLITCHES (HPEC'24): prefill of n tokens is 2·P·n + 4·n²·d·L operations and takes at least one decode step; a decode
 * step reads the weights once and each sequence's KV.
 *
 * T1 Pure: the same rows give the same time. T2 Chunks of a prompt together count as many operations as the whole.
 */
import type { DeviceSpec, DeviceUse, ModelSpec } from './specs.js'

/** A model on a device under a preset: all that its times, its memory and its advertisement follow from. */
export interface DeviceModel {
  readonly device: DeviceSpec
  readonly model: ModelSpec
  readonly use: DeviceUse
  /** Weights in memory, and those that one step reads. */
  readonly weightBytes: number
  readonly stepWeightBytes: number
  /** KV of a token over all layers, in the device's memory. */
  readonly kvBytesPerToken: number
  /** Memory that is left for KV, nearest first; the weights lie in the nearest that has room for them. */
  readonly kvMemories: readonly {
    readonly name: string
    readonly bytes: number
    readonly bytesPerSecond: number
  }[]
}

/** What one device step computes. */
export interface StepWork {
  /** Chunks of prompts: `count` tokens after `start` whose KV is there. */
  readonly prefills: readonly { readonly start: number; readonly count: number }[]
  /** Tokens in each sequence that decodes one token. */
  readonly decodes: readonly number[]
  /** Bytes of KV that decoding reads from each of `kvMemories`; undefined: all from the nearest. */
  readonly kvReadBytes?: readonly number[]
}

export interface DeviceTimes {
  /** Milliseconds of one step. */
  stepMs(work: StepWork): number
  /** Power during it, watts; undefined where the catalogue does not know the device's. */
  stepWatts(work: StepWork): number | undefined
}
