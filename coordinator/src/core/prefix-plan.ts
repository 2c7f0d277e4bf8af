/**
 * How a device would have the beginning of a prompt, and what was weighed.
 */
import type { BlockHashes } from './block-hashes.js'
import type { DeviceRef } from './facts.js'

export interface Prompt {
  readonly modelDigest: string
  /** Hashes of the full blocks that may be reused, in order; empty where nothing may. */
  readonly blockHashes: BlockHashes
  /** Tokens to prefill. */
  readonly prefillTokens: number
  /** Devices that failed this request a moment ago. */
  readonly avoided: ReadonlySet<string>
}

/** Cached blocks on another device. */
export interface PlannedFetch {
  readonly device: DeviceRef
  /** Leading tokens of the prompt that are there, those held locally included. */
  readonly tokens: number
  readonly tier: string
  readonly fetchMs: number
  /** Of computing them instead. */
  readonly computeMs: number
}

/** A device that holds more of the prompt and was not asked. */
export interface UnusedSource {
  readonly deviceId: string
  readonly tokens: number
  readonly tier: string
  readonly why: 'slower' | 'second-best' | 'lost' | 'draining' | 'failed-before'
  /** Predicted; 0 where it could not be asked. */
  readonly fetchMs: number
  readonly computeMs: number
  /** Of the whole prefill with it, as PrefixPlan.prefillMs. */
  readonly prefillMs: number
}

/** How one device would prefill. */
export interface PrefixPlan {
  readonly localTokens: number
  readonly localTier: string
  readonly fetch: PlannedFetch | null
  /** What is left to compute, and the time of that alone. */
  readonly computeTokens: number
  readonly computeMs: number
  /** The fetch and the wait for other prompts, which go on at the same time, and the computation. */
  readonly prefillMs: number
  /** The same with nothing fetched. */
  readonly unfetchedMs: number
  readonly unused: readonly UnusedSource[]
}
