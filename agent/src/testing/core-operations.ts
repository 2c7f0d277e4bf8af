/** What the test shell (core-harness.ts) can be asked to do; numbers that pick something wrap round. */
import type { LeasePurpose } from '../core/events.js'

export type Operation =
  | {
      readonly type: 'reserve'
      readonly request: number
      readonly epoch: number
      readonly text: number
      readonly prompt: number
      readonly room: number
      readonly reuse: boolean
      readonly purpose: LeasePurpose
    }
  | {
      readonly type: 'prefill'
      readonly request: number
      readonly epoch: number
      readonly text: number
      readonly prompt: number
      readonly reuse: boolean
      readonly fetch: number
    }
  | {
      readonly type: 'decode'
      readonly lease: number
      /** Tokens of the prompt beyond those it was reserved for. */
      readonly more: number
      readonly tokensMax: number
      readonly pulled: boolean
      readonly fetch: number
      readonly offload: 'none' | 'partial' | 'indices'
      /** Comes with another text than its lease. */
      readonly otherText: boolean
    }
  | {
      readonly type: 'attend'
      readonly lease: number
      readonly reuse: boolean
      /** As a push, where what it brings may be kept. */
      readonly push: boolean
    }
  | { readonly type: 'extend'; readonly lease: number; readonly tokens: number }
  | {
      readonly type: 'release' | 'pin' | 'unpin' | 'received' | 'sent' | 'cancel' | 'offloaded' | 'return'
      readonly pick: number
    }
  | { readonly type: 'fetched' | 'held'; readonly pick: number; readonly tokens: number }
  | { readonly type: 'reads'; readonly pick: number; readonly pattern: number }
  | { readonly type: 'lend'; readonly text: number; readonly pages: number }
  | { readonly type: 'evict'; readonly drop: boolean }
  | {
      readonly type: 'finish-step'
      readonly stops: boolean
      readonly fails: boolean
      readonly remoteFails: boolean
      readonly pattern: number
    }
  | { readonly type: 'wait'; readonly elapsedMs: number }
  | { readonly type: 'drain' }
