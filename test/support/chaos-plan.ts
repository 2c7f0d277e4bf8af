/**
 * What a chaos test does, drawn from a seed: streams that share the beginnings of their prompts and attend
 * in every way there is, and faults of every process.
 */
import type { GenerateOptions } from '@kvasir/engine/local-generator'

const streamCount = 18
const faultCount = 12
/** Streams and faults begin within this time. */
const scheduleMs = 5_000
const words = 'the king wolf fox said road went on a story of old stones and rain'.split(' ')

/** How a request asks for attention, and what that is in one process. */
interface AttentionPlan {
  readonly field: object | undefined
  readonly local: GenerateOptions['attention']
}

export interface StreamPlan {
  readonly startMs: number
  readonly prompt: string
  readonly maxTokens: number
  readonly temperature: number
  readonly seed: number
  readonly attention: AttentionPlan
  /** The client leaves after so many chunks. */
  readonly leavesAfter: number | undefined
}

export type Fault =
  | { readonly kind: 'kill' | 'stop'; readonly atMs: number; readonly forMs: number; readonly device: string }
  /** What is cached on a device is handed on, or dropped. */
  | { readonly kind: 'evict'; readonly atMs: number; readonly device: string; readonly drop: boolean }
  | { readonly kind: 'nats'; readonly atMs: number; readonly forMs: number }

export interface ChaosPlan {
  readonly streams: readonly StreamPlan[]
  readonly faults: readonly Fault[]
}

export const plain: AttentionPlan = { field: undefined, local: undefined }
const dense = (place: string): AttentionPlan => ({ field: { method: 'dense', place }, local: undefined })
const half = (place: string): AttentionPlan => ({
  field: { method: 'page-bounds', budget: '50%', place },
  local: { method: 'page-bounds', budget: { share: 0.5 } },
})
const attentions = [
  ...[plain, plain, plain, plain],
  ...['partial', 'indices'].map(dense),
  ...['local', 'partial', 'indices'].map(half),
]

/** The same plan for the same seed. */
export function chaosPlan(seed: number, devices: readonly string[], tier: string): ChaosPlan {
  const random = randomNumbers(seed)
  const between = (least: number, most: number) => Math.floor(least + random() * (most - least + 1))
  const oneOf = <T>(items: readonly T[]): T => items[between(0, items.length - 1)] as T
  const wordsOf = (count: number) => Array.from({ length: count }, () => oneOf(words)).join(' ')
  const stems = ['', ...[60, 150, 250].map(wordsOf)]
  const streams = Array.from({ length: streamCount }, (): StreamPlan => {
    const attention = oneOf(attentions)
    return {
      startMs: between(0, scheduleMs),
      prompt: `${oneOf(stems)} ${wordsOf(oneOf([3, 20, 80]))}`.trim(),
      maxTokens: between(50, 280),
      // Drawn tokens would follow what the order of a sum changes.
      temperature: attention === plain ? oneOf([0, 0, 0.7, 1.3]) : 0,
      seed: between(0, 1e6),
      attention,
      leavesAfter: random() < 0.2 ? between(1, 60) : undefined,
    }
  })
  const faults = Array.from({ length: faultCount }, (): Fault => {
    const atMs = between(0, scheduleMs)
    const kind = oneOf(['kill', 'kill', 'stop', 'stop', 'evict', 'evict', 'nats'] as const)
    if (kind === 'nats') return { kind, atMs, forMs: between(0, 2_000) }
    const device = oneOf([...devices, tier])
    if (kind === 'evict') return { kind, atMs, device, drop: random() < 0.3 }
    return { kind, atMs, forMs: between(0, kind === 'stop' ? 2_800 : 1_200), device }
  })
  return { streams, faults }
}

/** A small generator of random numbers (mulberry32). */
function randomNumbers(start: number): () => number {
  let state = start | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
