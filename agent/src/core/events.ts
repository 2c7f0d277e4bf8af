/**
 * What the agent core is told and what it answers.
 *
 * Sequence numbers are chosen by the caller, rising with arrival and never used twice.
 * Times are milliseconds on the caller's monotonic clock. Tokens are counts: the core
 * never sees a token, so a study can drive it in virtual time. A page is a block: 16 tokens
 * of a sequence; its hash names its content and all before it (32 hexadecimal characters).
 *
 * Actions are carried out in their order. Above all, `demote` and `copy` come before whatever
 * uses the blocks that they empty, so their reads and copies are issued to the driver at once,
 * before the action that follows.
 */
import type { LeaseReference } from './lease-table.js'

/** decode: a sequence that is generated here; takes a decode slot. attend: pages of one that another device decodes. */
export type LeasePurpose = 'decode' | 'attend'

export type CoreEvent =
  /**
   * Memory, and for `decode` a slot, for a sequence that is still to come. `hashes`: of the prompt's
   * full blocks, [] where nothing is reused. Answered by `granted` or `refused`.
   */
  | {
      readonly type: 'reserve'
      readonly requestId: string
      readonly epoch: number
      readonly tokens: number
      readonly hashes: readonly string[]
      readonly purpose: LeasePurpose
    }
  /** Answered by `granted` or `refused`. */
  | { readonly type: 'extend'; readonly lease: LeaseReference; readonly tokens: number }
  /** Answered by `released` or `refused`. */
  | { readonly type: 'release'; readonly lease: LeaseReference }
  /** A prompt whose KV another device will pull. Answered by `refused`, or by `admitted` at once or later. */
  | {
      readonly type: 'prefill'
      readonly sequence: number
      readonly requestId: string
      readonly epoch: number
      readonly promptTokens: number
      /** Of the prompt's full blocks; [] where nothing is reused and nothing left behind. */
      readonly hashes: readonly string[]
      /** Leading tokens that can be fetched; 0 for none. Where `admitted.cachedTokens` is less, `fetched` must follow. */
      readonly fetchTokens: number
    }
  /** A sequence to generate under a lease. Answered by `attached` or `refused`. */
  | {
      readonly type: 'decode'
      readonly sequence: number
      readonly lease: LeaseReference
      readonly requestId: string
      readonly epoch: number
      readonly promptTokens: number
      /** Index of the next token to be sampled. */
      readonly firstIndex: number
      /** Generation ends when the next index would reach it. */
      readonly tokensMax: number
      /** KV comes from another device (then `received` follows), or is computed here. */
      readonly kv: 'pulled' | 'computed'
      /** Of the prompt's full blocks; begin with those of its `reserve`. [] where nothing is reused. */
      readonly hashes: readonly string[]
      /** For kv `computed`: as of `prefill`; where `attached.cachedTokens` is less, `fetched` must follow. */
      readonly fetchTokens: number
      /** Another device answers for its first `pages` full pages; it decodes once `offloaded` was said. */
      readonly offload: { readonly pages: number; readonly mode: 'partial' | 'indices' } | undefined
    }
  /** The first `tokens` tokens (a block multiple, at least those cached) are in the blocks; the rest is computed here. */
  | { readonly type: 'fetched'; readonly sequence: number; readonly tokens: number }
  /** The KV of the whole prompt is in the blocks, and the first token is known. */
  | { readonly type: 'received'; readonly sequence: number; readonly stopped: boolean }
  /** The KV of a prefill was acknowledged by its receiver. `blocks`: the prompt's last ones, which the receiver lacked. */
  | { readonly type: 'sent'; readonly sequence: number; readonly blocks: number }
  /**
   * The first pages of a sequence that another device decodes, under a lease for `attend`. Answered by
   * `attached` or `refused`; goes on until `end`.
   */
  | {
      readonly type: 'attend'
      readonly sequence: number
      readonly lease: LeaseReference
      readonly requestId: string
      readonly epoch: number
      /** Full pages. */
      readonly pages: number
      /** Whether what arrives may be kept for others: false where pages come without K and V. */
      readonly reuse: boolean
      /** Of the pages; begin with those of its `reserve`. */
      readonly hashes: readonly string[]
    }
  /**
   * Full blocks that come from outside, under a lease for `attend` that nobody uses, whoever reserved it. Answered by
   * `attached` or `refused`; goes on until `end`, and what is `held` by then is cached.
   */
  | {
      readonly type: 'push'
      readonly sequence: number
      readonly lease: LeaseReference
      /** Of the blocks; begin with those of its `reserve`. */
      readonly hashes: readonly string[]
    }
  /** KV (or bounds) of the first `tokens` tokens of an attend sequence or a push have arrived. */
  | { readonly type: 'held'; readonly sequence: number; readonly tokens: number }
  /** The attending device is ready. With mode partial the sequence gives its first pages up. */
  | { readonly type: 'offloaded'; readonly sequence: number }
  /** What one decode step's attention read of an attend sequence's pages, a value for each page. */
  | ({ readonly type: 'reads'; readonly sequence: number } & PageUse)
  /** Its stream is gone, or its work failed. */
  | { readonly type: 'end'; readonly sequence: number; readonly cause: 'cancelled' | 'failed' }
  /** A transfer begins or stops to touch the blocks of a lease. */
  | { readonly type: 'pin' | 'unpin'; readonly counter: bigint }
  /** Cached blocks are to be sent to another device. Answered by `lent`; nothing evicts or moves them until `return`. */
  | { readonly type: 'lend'; readonly hashes: readonly string[] }
  | { readonly type: 'return'; readonly loan: number }
  /** Give up all cached blocks that nobody touches; `drop`: without handing them on. Answered by `evicted`. */
  | { readonly type: 'evict'; readonly drop: boolean }
  /** The running step is over. */
  | {
      readonly type: 'step-finished'
      readonly cancelled: boolean
      /** Sequences whose sampled token was a stop token. */
      readonly stopped: readonly number[]
      /** Sequences whose remote attention failed: nothing was sampled; they end as `failed`. */
      readonly failed: readonly number[]
      /**
       * Sequences whose step completed a block with generated tokens, and its hash. None of sequences
       * that reuse nothing.
       */
      readonly filled: readonly { readonly sequence: number; readonly hash: string }[]
      /** What attention read, a value for each of `StepPart.blocks`. A decoding sequence without one read all its pages. */
      readonly reads: readonly ({ readonly sequence: number } & PageUse)[]
      /** Time on the device, microseconds; the mean of one where there were several. */
      readonly elapsedUs: number
      /**
       * Steps that ran as one, at most `repeatable`; default 1. `stopped`, `failed` and `filled` are then of the last one, so
       * a run ends with a step that completes a block that has a hash; each of `reads` is of every step.
       */
      readonly steps?: number
    }
  /** The driver could not run the step. */
  | { readonly type: 'step-failed' }
  /** Time passes. */
  | { readonly type: 'tick' }
  /** Refuse new work; `drained` follows once nothing is left. */
  | { readonly type: 'drain' }
  /** End whatever still runs. */
  | { readonly type: 'end-all' }

/** Of each page of one sequence in one step. */
export interface PageUse {
  /** Share of the page that was read, 0 to 1: of (layer, KV head) pairs. */
  readonly reads: Float32Array
  /** Its mean attention weight. */
  readonly mass: Float32Array
}

export type Refusal =
  | 'draining'
  /** Not enough free or evictable blocks now. */
  | 'memory'
  /** More tokens than the tiers could hold were they empty. */
  | 'too-large'
  | 'slots'
  | 'queue-full'
  /** A newer placement of the same request is here. */
  | 'superseded'
  /** The same placement of the same request runs here already. */
  | 'duplicate'
  | 'lease-ended'
  | 'lease-older'
  | 'lease-foreign'
  /** The lease belongs to another request, epoch, use or prefix. */
  | 'lease-mismatch'
  /** The lease holds fewer blocks than are pushed. */
  | 'lease-small'

export type EndReason =
  | 'stop'
  | 'length'
  | 'preempted'
  | 'sent'
  | 'cancelled'
  | 'failed'
  | 'superseded'
  | 'released'
  | 'draining'

/** One sequence's rows in a step. */
export interface StepPart {
  readonly sequence: number
  readonly role: 'prefill' | 'decode'
  /** Blocks that cover `start + count` tokens, from page `firstPage` on. */
  readonly blocks: readonly number[]
  /** Above 0 where another device holds the pages before it. */
  readonly firstPage: number
  readonly start: number
  readonly count: number
  readonly wantLogits: boolean
}

/** What a sequence's attention read from one tier while it decoded (or was attended to), and what was moved into the tier. */
export interface TierTraffic {
  /** Name of the tier. */
  readonly tier: string
  readonly readBytes: number
  readonly movedBytes: number
}

export type CoreAction =
  /** `cachedTokens`: leading tokens whose KV is in the lease already. */
  | {
      readonly type: 'granted'
      readonly counter: bigint
      readonly tokens: number
      readonly cachedTokens: number
    }
  | { readonly type: 'released'; readonly wasAlive: boolean }
  | { readonly type: 'refused'; readonly reason: Refusal }
  /** A prefill has memory. */
  | {
      readonly type: 'admitted'
      readonly sequence: number
      readonly counter: bigint
      readonly blocks: readonly number[]
      /** Prompt tokens to be computed before its own. */
      readonly tokensAhead: number
      /** Leading tokens whose KV is in the blocks already; at least one token is left to compute. */
      readonly cachedTokens: number
    }
  /** `cachedTokens`: as of `admitted`; for kv `pulled` and for `attend` all tokens may be cached. */
  | {
      readonly type: 'attached'
      readonly sequence: number
      readonly blocks: readonly number[]
      readonly cachedTokens: number
    }
  /** The longest leading run that is here, with its blocks; loan 0 and [] where there is none. */
  | { readonly type: 'lent'; readonly loan: number; readonly blocks: readonly number[] }
  | { readonly type: 'evicted'; readonly blocks: number }
  /** These blocks leave the cache: issue their reads now, the blocks belong to others with the next action. */
  | {
      readonly type: 'demote'
      readonly blocks: readonly { readonly hash: string; readonly block: number; readonly tier: string }[]
    }
  /** Blocks are in another place now, `from[i]` in `to[i]`: issue the copy now, `from` belongs to others with the next action. */
  | { readonly type: 'copy'; readonly from: readonly number[]; readonly to: readonly number[] }
  /** The set of stored full blocks changed with this event. Replayed in order, these give `AgentCore.storedHashes`. */
  | {
      readonly type: 'kv-changed'
      readonly stored: readonly string[]
      readonly removed: readonly string[]
    }
  /**
   * Run these rows and say `step-finished`; one step at a time. `repeatable`: so many steps in a row, this one included,
   * would have the same sequences, each one row further, and no other action before the last one's end, as long as no
   * other event comes. Whoever runs several as one tells, before any other event, of those that are over by then; the
   * run goes on with what `run-step` then says, unless that event brings `repeat-less`.
   */
  | { readonly type: 'run-step'; readonly parts: readonly StepPart[]; readonly repeatable: number }
  /** An event came by which the next step may be another one: the running one stands for at most so many, itself included. */
  | { readonly type: 'repeat-less'; readonly repeatable: number }
  /** End the running step early; `step-finished` still follows. */
  | { readonly type: 'cancel-step' }
  /** `reads`: one of each tier, nearest first. */
  | {
      readonly type: 'sequence-ended'
      readonly sequence: number
      readonly reason: EndReason
      readonly reads: readonly TierTraffic[]
    }
  | { readonly type: 'lease-ended'; readonly counter: bigint }
  | { readonly type: 'drained' }

/** What happened in one tier since the core began, and what is in it now. */
export interface TierLoad {
  readonly name: string
  readonly capacityBlocks: number
  /** Under lease, or still touched after their lease ended. */
  readonly leasedBlocks: number
  /** Kept for reuse; nobody leases them. */
  readonly cachedBlocks: number
  /** Full prompt blocks that sequences looked for and nearer tiers had not. */
  readonly lookups: number
  /** Of these, found here. */
  readonly hits: number
  /** KV that attention of decode steps read. */
  readonly readBytes: number
  /** Blocks that came from other devices or tiers. */
  readonly inBlocks: number
  /** Blocks that went to other devices or tiers, demoted ones included. */
  readonly outBlocks: number
  /** Blocks given up by `evict` with `drop`. */
  readonly droppedBlocks: number
}

export interface CoreLoad {
  /** Decode slots in use, reserved ones included. */
  readonly decodeSlotsUsed: number
  /** Prompt tokens that wait for memory, for KV that is fetched, or for the device. */
  readonly prefillTokensWaiting: number
  /** Blocks under lease, or still touched after their lease ended. */
  readonly usedBlocks: number
  readonly leases: number
  readonly sequences: number
  readonly draining: boolean
  /** Nearest first. */
  readonly tiers: readonly TierLoad[]
}
