/**
 * What a device's next steps do and how long they take: one step, or a run of steps that only decode, each of which reads
 * one token more of every sequence than the one before. Pure.
 */
import type { StepPart } from '@kvasir/agent/core/events'
import type { DeviceTimes, StepWork } from '@kvasir/catalogue/device-times'

export interface StepRun {
  readonly parts: readonly StepPart[]
  readonly startMs: number
  readonly steps: number
  /** Step i of a run takes `firstMs + i · slopeMs`. */
  readonly firstMs: number
  readonly slopeMs: number
  readonly work: StepWork
  readonly prefillTokens: number
}

/** The memories of a device that hold KV. */
export interface KvMemory {
  /** Blocks of each, nearest first; ids of blocks count through them. */
  readonly tierBlocks: readonly number[]
  readonly blockTokens: number
  readonly kvBytesPerToken: number
}

/** So that no device is silent for long, and what it generates is not out of date for long. */
const RUN_MS_MAX = 5_000

/** `stepsMax`: 1 where a part prefills. `movedBytes`: between memories since the last step, which this one pays for. */
export function stepRun(
  parts: readonly StepPart[],
  at: { readonly startMs: number; readonly stepsMax: number; readonly movedBytes: number },
  times: DeviceTimes,
  memory: KvMemory,
): StepRun {
  const prefills: { start: number; count: number }[] = []
  const decodes: number[] = []
  let prefillTokens = 0
  for (const { role, start, count } of parts) {
    if (role === 'prefill') {
      prefills.push({ start, count })
      prefillTokens += count
    } else decodes.push(start + 1)
  }
  const reads = kvReads(parts, memory, at.movedBytes)
  const workAfter = (passed: number): StepWork => ({
    prefills,
    decodes: passed === 0 ? decodes : decodes.map((context) => context + passed),
    ...(reads === undefined
      ? {}
      : { kvReadBytes: reads.bytes.map((bytes, tier) => bytes + (reads.growth[tier] ?? 0) * passed) }),
  })
  const work = workAfter(0)
  const firstMs = times.stepMs(work)
  // One step alone pays for what moved.
  const most = at.movedBytes > 0 || prefillTokens > 0 ? 1 : at.stepsMax
  const steps = most > 1 ? Math.max(1, Math.min(most, Math.floor(RUN_MS_MAX / firstMs))) : 1
  const slopeMs = steps > 1 ? (times.stepMs(workAfter(steps - 1)) - firstMs) / (steps - 1) : 0
  return { parts, startMs: at.startMs, steps, firstMs, slopeMs, work, prefillTokens }
}

/** Of the first `steps` steps. */
export function runMs({ firstMs, slopeMs }: StepRun, steps: number): number {
  return steps * firstMs + (slopeMs * steps * (steps - 1)) / 2
}

/** Whole steps of a run that fit into `ms`. */
export function stepsIn(run: StepRun, ms: number): number {
  let [least, most] = [0, run.steps]
  while (least < most) {
    const middle = Math.ceil((least + most) / 2)
    if (runMs(run, middle) <= ms) least = middle
    else most = middle - 1
  }
  return least
}

/**
 * Bytes of KV that decoding reads by memory, where there are several, and by how many they grow with each step that follows:
 * new tokens are taken to lie where the newest ones do.
 */
function kvReads(
  parts: readonly StepPart[],
  { tierBlocks, blockTokens, kvBytesPerToken }: KvMemory,
  movedBytes: number,
): { readonly bytes: readonly number[]; readonly growth: readonly number[] } | undefined {
  if (tierBlocks.length < 2) return undefined
  const bytes = tierBlocks.map(() => movedBytes)
  const growth = tierBlocks.map(() => 0)
  const add = (to: number[], tier: number, tokens: number) => {
    to[tier] = (to[tier] ?? 0) + tokens * kvBytesPerToken
  }
  const near = tierBlocks[0] ?? 0
  for (const { role, start, blocks } of parts) {
    if (role !== 'decode') continue
    let farBlocks = 0
    for (const block of blocks) if (block >= near) farBlocks += 1
    add(bytes, 0, (blocks.length - farBlocks) * blockTokens)
    add(bytes, 1, farBlocks * blockTokens)
    const newest = (blocks.at(-1) ?? 0) < near ? 0 : 1
    // Of its last block only the tokens that are there.
    add(bytes, newest, start + 1 - blocks.length * blockTokens)
    add(growth, newest, 1)
  }
  return { bytes, growth }
}
