/** What an agent core is told of its device when it begins. */
import type { StepLimits } from './step-planner.js'

/** static: fill the nearest tier, then spill. reactive: promote what was read, demote what was not. balanced: see tier-policy-balanced.ts. */
export type TierPolicyName = 'static' | 'reactive' | 'balanced'

/** One memory that holds KV blocks. Block ids count through the tiers: the nearest has the first ones. */
export interface TierOptions {
  /** Unique on the device, such as hbm. */
  readonly name: string
  /** Its capacity; never exceeded. */
  readonly blocks: number
  /** Sustained read bandwidth. */
  readonly bytesPerSecond: number
}

export interface CoreOptions {
  readonly deviceId: string
  readonly incarnation: bigint
  readonly leaseTtlMs: number
  /** Leases are numbered from the next on, so that several models of one device never issue the same; 0 where absent. */
  readonly leaseCountersFrom?: bigint
  /** Nearest first. */
  readonly tiers: readonly TierOptions[]
  /** Bytes of one block, all layers. */
  readonly blockBytes: number
  /** Tokens of one block; 16 where absent. */
  readonly blockTokens?: number
  /** Which pages of decoding sequences sit where; without effect on a device of one tier. */
  readonly tierPolicy: TierPolicyName
  /** Sequences decoded at once, reserved ones included. */
  readonly decodeSlots: number
  /** Of those, at most so many decode in one step, the oldest first; all where absent. */
  readonly decodesAtOnce?: number
  /** Prefills that may wait for memory. */
  readonly waitingMax: number
  /** Longest sequence the model takes, tokens. */
  readonly contextTokensMax: number
  readonly limits: StepLimits
}
