/** What the test shell (core-harness.ts) knows of leases and sequences. */
import { pageLabel } from './block-contents.js'

export interface KnownLease {
  readonly counter: bigint
  readonly requestId: string
  readonly epoch: number
  text: number
  readonly prompt: number
  readonly reuse: boolean
  readonly purpose: 'decode' | 'attend' | 'prefill'
  alive: boolean
  pins: number
  /** Of pages `first`, `first` + 1, … */
  blocks: readonly number[]
  first: number
  /** Given up while pinned: they were its pages of these numbers. */
  leaving: readonly (readonly [page: number, block: number])[]
}

export interface KnownSequence {
  readonly id: number
  readonly role: 'prefill' | 'decode' | 'attend'
  readonly text: number
  readonly prompt: number
  readonly reuse: boolean
  phase: 'waiting' | 'fetching' | 'receiving' | 'prefilling' | 'computed' | 'decoding' | 'attending'
  fetch: number
  offload: { readonly pages: number; readonly mode: 'partial' | 'indices' } | undefined
  offloaded: boolean
  counter: bigint | undefined
  ended: boolean
  /** Tokens whose KV is in its blocks, and how many of them were there from the start. */
  computed: number
  cached: number
}

export function fail(message: string): never {
  throw new Error(message)
}

export function pick<T>(items: readonly T[], index: number): T | undefined {
  return items.length === 0 ? undefined : items[index % items.length]
}

export function pagesOf({ blocks, first }: KnownLease): (readonly [number, number])[] {
  return blocks.map((block, index) => [first + index, block])
}

/** What its pages hold; those of which only bounds were sent hold nothing that others could use. */
export function labels({ id, role, reuse, text, cached }: KnownSequence): (page: number) => string {
  return (page) =>
    role === 'attend' && !reuse && page * 16 >= cached ? `bounds-${id}/${page}` : pageLabel(text, page)
}

export function arriving({ id }: KnownSequence): (page: number) => string {
  return (page) => `arriving-${id}/${page}`
}
