/**
 * What goes into the coordinator's core and what comes out.
 *
 * Events of an epoch that is no longer in force are ignored by the core, so a shell
 * may deliver late ones without care. Every request that was submitted ends with
 * exactly one of `finish`, `fail`, `cancelled`; every `reserve` is followed by
 * exactly one of `finish`, `abandon`, and until then it is the only one of its request.
 */
import type { AttentionWish } from './attention-wish.js'
import type { BlockHashes } from './block-hashes.js'
import type { CompletionRecord } from './completion-record.js'
import type { Decision } from './decision.js'
import type { DeviceFacts, DeviceRef, LoadFacts, ProfileName } from './facts.js'
import type { KvChange, KvSnapshot } from './kv-follower.js'

/** Why a call failed, by what follows from it. */
export type Fault =
  /** The peer is gone: it is suspect at once, and the request goes elsewhere. */
  | 'unreachable'
  /** No room or draining: nothing was done; the device is left alone for a moment. */
  | 'refused'
  /** The lease is over; nothing is wrong with the device. */
  | 'lease-expired'
  /** The device could not do it: the request avoids it for a while. */
  | 'broken'
  /** No device will do it: the request itself is at fault. */
  | 'rejected'

export type CallName = 'reserve' | 'prefill' | 'decode'

interface OfEpoch {
  readonly requestId: string
  readonly epoch: number
}

export type RequestEvent =
  | ({ readonly type: 'reserved' } & OfEpoch)
  /** The prefilling device took the prompt: progress, nothing more. */
  | ({ readonly type: 'prefill-admitted' } & OfEpoch)
  /** Prefill on another device than the decoding one was computed; `stopped`: its token ended the sequence. */
  | ({ readonly type: 'prefill-finished'; readonly stopped: boolean } & OfEpoch)
  /** The prefilling device holds nothing any more. */
  | ({ readonly type: 'kv-sent' } & OfEpoch)
  | ({ readonly type: 'decode-started' } & OfEpoch)
  /** Tokens from the decoding device, a count from an index on. */
  | ({ readonly type: 'tokens'; readonly firstIndex: number; readonly count: number } & OfEpoch)
  | ({ readonly type: 'decode-finished'; readonly reason: 'stop' | 'length' | 'preempted' } & OfEpoch)
  | ({
      readonly type: 'call-failed'
      readonly call: CallName
      readonly fault: Fault
      /** The device at fault, which a decode call may say is the source. */
      readonly deviceId: string
    } & OfEpoch)

/** A request as it comes to the core. */
export interface Submission {
  readonly requestId: string
  readonly modelDigest: string
  readonly profile: ProfileName
  readonly promptTokens: number
  readonly maxTokens: number
  /** Hashes of the prompt's full blocks, in order; empty where nothing may be reused. */
  readonly blockHashes: BlockHashes
  /** How decoding attends, where the client asked. */
  readonly attention?: AttentionWish | undefined
  /** Among whom devices are shared fairly; default ''. */
  readonly tenant?: string | undefined
  /** From PRIORITY_MIN to PRIORITY_MAX, higher is more urgent; default 0. */
  readonly priority?: number | undefined
  /** Until the first token, from now; absent: as the coordinator is set. */
  readonly ttftDeadlineMs?: number | undefined
}

export type CoordinatorEvent =
  | { readonly type: 'tick' }
  | { readonly type: 'bus'; readonly connected: boolean }
  | { readonly type: 'advertised'; readonly device: DeviceFacts }
  | { readonly type: 'withdrawn'; readonly deviceId: string }
  | { readonly type: 'load'; readonly load: LoadFacts }
  | { readonly type: 'health'; readonly device: DeviceRef; readonly ok: boolean }
  | ({ readonly type: 'submit' } & Submission)
  | { readonly type: 'cancel'; readonly requestId: string }
  | { readonly type: 'completed'; readonly record: CompletionRecord }
  | { readonly type: 'kv'; readonly change: KvChange }
  /** The answer to `snapshot`; null where the device gave none. */
  | { readonly type: 'kv-snapshot'; readonly device: DeviceRef; readonly snapshot: KvSnapshot | null }
  /** A device lacked blocks that the directory knew on it. */
  | { readonly type: 'kv-missed'; readonly device: DeviceRef; readonly hashes: BlockHashes }
  | RequestEvent

export type FailCode =
  | 'overloaded'
  | 'unavailable'
  | 'deadline'
  | 'rejected'
  /** Given up before any work was done: it would have missed its deadline, or gave way to one that is worth more. */
  | 'shed'

/** Why a request was shed. */
export type ShedReason =
  /** It was predicted to be late. */
  | 'late'
  /** Its deadline passed while it waited. */
  | 'missed'
  /** The queue was full, and it was worth least: of lower priority, */
  | 'priority'
  /** or of a tenant that had more than its share waiting, or newer. */
  | 'share'

/** How a request waited for its first place. */
export interface WaitNote {
  readonly waitedMs: number
  /** Work that was before it when it came, tokens of prompts and expected answers. */
  readonly tokensAhead: number
  /** Why it had to wait: it did not; others were before it; no device had room; prompts waited on the devices. */
  readonly cause: 'none' | 'others' | 'room' | 'prompts'
}

export type CoordinatorAction =
  /** Ask the device's health service; answer with `health`, also when the time is over. */
  | { readonly type: 'check-health'; readonly device: DeviceRef; readonly timeoutMs: number }
  /** Ask the device which blocks it holds; answer with `kv-snapshot`, also when the time is over. */
  | { readonly type: 'snapshot'; readonly device: DeviceRef; readonly timeoutMs: number }
  /** Nothing will be asked of this life of the device again: close what leads to it. */
  | { readonly type: 'forget-device'; readonly device: DeviceRef }
  | {
      readonly type: 'reserve'
      readonly requestId: string
      readonly epoch: number
      readonly tokens: number
      readonly decision: Decision
      readonly wait: WaitNote
    }
  /** Start the calls. Without `prefill` the decoding device prefills. */
  | {
      readonly type: 'run'
      readonly requestId: string
      readonly epoch: number
      readonly prefill: DeviceRef | null
      readonly decode: DeviceRef
      readonly firstIndex: number
      /** So many tokens, from the first on, are decoded again as they stand; then `firstIndex` is 0. */
      readonly replayed: number
      /** The calls' deadline, from now. */
      readonly timeoutMs: number
    }
  /** Hand tokens `from` … `from + count − 1` to the client. */
  | { readonly type: 'emit'; readonly requestId: string; readonly from: number; readonly count: number }
  /** Stop the epoch's calls and release what it reserved. */
  | { readonly type: 'abandon'; readonly requestId: string; readonly epoch: number; readonly cause: string }
  /** The request is back in the queue, to be placed anew. */
  | { readonly type: 'requeue'; readonly requestId: string; readonly cause: string }
  | { readonly type: 'finish'; readonly requestId: string; readonly reason: 'stop' | 'length' }
  | {
      readonly type: 'fail'
      readonly requestId: string
      readonly code: FailCode
      readonly message: string
      readonly retryAfterMs: number
      /** With code shed. */
      readonly shed?: ShedReason
    }
  | { readonly type: 'cancelled'; readonly requestId: string }
