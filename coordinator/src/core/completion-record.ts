/**
 * What a finished request tells the cost model. Times are measured on the device's
 * own clock; parts that did not happen are absent.
 */
import type { DeviceFacts, ProfileName } from './facts.js'

export interface CompletionRecord {
  readonly modelDigest: string
  readonly profile: ProfileName
  readonly prefill?: {
    readonly deviceId: string
    /** Computed, after `contextTokens` that were reused. */
    readonly tokens: number
    readonly contextTokens: number
    /** Its share of the steps that computed it, by rows: not the time that other prompts took in them, but that of decodes beside it. */
    readonly computeMs: number
  }
  readonly decode?: {
    readonly deviceId: string
    readonly steps: number
    readonly stepsMs: number
    /** Sequences that shared a step, at most. */
    readonly batch: number
    /** Tokens in the sequence half-way through. */
    readonly contextTokens: number
  }
  readonly transfer?: {
    readonly fromDeviceId: string
    readonly toDeviceId: string
    readonly bytes: number
    readonly busyMs: number
  }
  /** Attention that was sparse or on another device; means of one layer and step. */
  readonly attention?: {
    /** Where pages were chosen, and where they were attended to; absent where none were chosen. */
    readonly chooserDeviceId?: string
    readonly applierDeviceId: string
    readonly pages: number
    readonly pagesRead: number
    readonly relevancyMs: number
    readonly retrievalMs: number
    readonly applyMs: number
  }
  /** Cached blocks, from the request to the last byte. */
  readonly fetch?: {
    readonly fromDeviceId: string
    readonly toDeviceId: string
    readonly bytes: number
    readonly fetchMs: number
  }
}

/** A finished request as it is kept: what was predicted when it was placed first, and what came of it. */
export interface KeptCompletion {
  readonly requestId: string
  readonly record: CompletionRecord
  readonly predicted: { readonly ttftMs: number; readonly tpotMs: number } | null
  /** As the coordinator saw it; null where it never came. */
  readonly measured: {
    readonly queueMs: number | null
    readonly ttftMs: number | null
    readonly tpotMs: number | null
  }
}

/** All that a calibration needs: the last finished requests, and the devices that they ran on. */
export interface CompletionHistory {
  readonly devices: readonly DeviceFacts[]
  /** Oldest first. */
  readonly completions: readonly KeptCompletion[]
}
