/**
 * What the agent core is told and what it answers.
 *
 * Sequence numbers are chosen by the caller, rising with arrival and never used twice.
 * Times are milliseconds on the caller's monotonic clock. Tokens are counts: the core
 * never sees a token, so a study can drive it in virtual time.
 */
import type { LeaseReference } from './lease-table.js'

export type CoreEvent =
  /** Memory and a decode slot for a sequence that is still to come. Answered by `granted` or `refused`. */
  | { readonly type: 'reserve'; readonly requestId: string; readonly epoch: number; readonly tokens: number }
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
    }
  /** The KV of the whole prompt is in the blocks, and the first token is known. */
  | { readonly type: 'received'; readonly sequence: number; readonly stopped: boolean }
  /** The KV of a prefill was acknowledged by its receiver. */
  | { readonly type: 'sent'; readonly sequence: number }
  /** Its stream is gone, or its work failed. */
  | { readonly type: 'end'; readonly sequence: number; readonly cause: 'cancelled' | 'failed' }
  /** A transfer begins or stops to touch the blocks of a lease. */
  | { readonly type: 'pin' | 'unpin'; readonly counter: bigint }
  /** The running step is over. `stopped`: sequences whose sampled token was a stop token. */
  | {
      readonly type: 'step-finished'
      readonly cancelled: boolean
      readonly stopped: readonly number[]
      /** Time on the device, microseconds. */
      readonly elapsedUs: number
    }
  /** The driver could not run the step. */
  | { readonly type: 'step-failed' }
  /** Time passes. */
  | { readonly type: 'tick' }
  /** Refuse new work; `drained` follows once nothing is left. */
  | { readonly type: 'drain' }
  /** End whatever still runs. */
  | { readonly type: 'end-all' }

export type Refusal =
  | 'draining'
  /** Not enough free blocks now. */
  | 'memory'
  /** More tokens than the tier could hold were it empty. */
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
  /** The lease belongs to another request, epoch or use. */
  | 'lease-mismatch'

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
  /** Blocks that cover `start + count` tokens. */
  readonly blocks: readonly number[]
  readonly start: number
  readonly count: number
  readonly wantLogits: boolean
}

export type CoreAction =
  | { readonly type: 'granted'; readonly counter: bigint; readonly tokens: number }
  | { readonly type: 'released'; readonly wasAlive: boolean }
  | { readonly type: 'refused'; readonly reason: Refusal }
  /** A prefill has memory. `tokensAhead`: prompt tokens to be computed before its own. */
  | {
      readonly type: 'admitted'
      readonly sequence: number
      readonly counter: bigint
      readonly blocks: readonly number[]
      readonly tokensAhead: number
    }
  | { readonly type: 'attached'; readonly sequence: number; readonly blocks: readonly number[] }
  /** Run these rows and say `step-finished`; one step at a time. */
  | { readonly type: 'run-step'; readonly parts: readonly StepPart[] }
  /** End the running step early; `step-finished` still follows. */
  | { readonly type: 'cancel-step' }
  | { readonly type: 'sequence-ended'; readonly sequence: number; readonly reason: EndReason }
  | { readonly type: 'lease-ended'; readonly counter: bigint }
  | { readonly type: 'drained' }

export interface CoreLoad {
  /** Decode slots in use, reserved ones included. */
  readonly decodeSlotsUsed: number
  /** Prompt tokens that wait for memory or for the device. */
  readonly prefillTokensWaiting: number
  /** Blocks under lease, or still touched after their lease ended. */
  readonly usedBlocks: number
  readonly leases: number
  readonly sequences: number
  readonly draining: boolean
}
