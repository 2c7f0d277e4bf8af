/**
 * Measures what the device really does with a loaded model, in a few steps before it
 * serves: the rate of arithmetic from a short prefill, the rate of memory from single
 * tokens. The steps also warm the device up for the first request. Those of other models wait
 * while one runs, so none is long: a large model's prefill is shorter.
 *
 * What comes out is what the whole step achieved, not a peak of the hardware.
 */
import type { DriverModel, LoadedModelFacts, StepSequence } from '@kvasir/engine/device-driver'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { blocksForTokens } from './core/block-allocator.js'

export interface MeasuredRates {
  /** A multiply-add counts as two. */
  readonly opsPerSecond: number
  readonly bytesPerSecond: number
}

const PREFILL_TOKENS = { least: 8, most: 32 } as const
/** Longest prefill, were each of its tokens to take as long as a single one. */
const PREFILL_US = 4e6
const DECODE_STEPS = 3

/** `kvBlocks`: size of the pool, nothing of which is in use yet. */
export async function measureRates(
  driver: DriverModel,
  model: LoadedModelFacts,
  kvBlocks: number,
): Promise<MeasuredRates> {
  const room = Math.min(kvBlocks * BLOCK_TOKENS, model.contextTokensMax)
  const tokensMax = Math.max(1, Math.min(PREFILL_TOKENS.most, room - 1))
  const poolMax = Math.min(kvBlocks, blocksForTokens(tokensMax + 1))
  const blocks = Uint32Array.from({ length: poolMax }, (_, id) => id)
  const run = async (start: number, count: number): Promise<number> => {
    const covering = blocks.slice(0, blocksForTokens(start + count))
    const tokens = new Uint32Array(count)
    const sequence: StepSequence = { blocks: covering, start, tokens, wantLogits: true }
    return (await driver.step([sequence])).elapsedUs
  }
  await run(0, 1)
  const suitable = Math.max(PREFILL_TOKENS.least, Math.floor(PREFILL_US / (await run(0, 1))))
  const tokens = Math.min(tokensMax, suitable)
  await run(0, tokens)
  const prefillUs = await run(0, tokens)
  let decodeUs = Number.POSITIVE_INFINITY
  if (room > tokens) {
    for (let step = 0; step < DECODE_STEPS; step += 1) decodeUs = Math.min(decodeUs, await run(tokens, 1))
  }
  return {
    opsPerSecond: perSecond(2 * model.parameters * tokens, prefillUs),
    bytesPerSecond: perSecond(model.weightBytes, decodeUs),
  }
}

const COPY_BYTES = 16 << 20
const COPIES = 3

/** What this process achieves in reading its own memory, bytes a second. */
export function measureCopyRate(): number {
  const from = new Uint8Array(COPY_BYTES).fill(1)
  const to = new Uint8Array(COPY_BYTES)
  let bestMs = Number.POSITIVE_INFINITY
  for (let copy = 0; copy < COPIES; copy += 1) {
    const startMs = performance.now()
    to.set(from)
    bestMs = Math.min(bestMs, performance.now() - startMs)
  }
  return perSecond(COPY_BYTES, bestMs * 1_000)
}

function perSecond(amount: number, elapsedUs: number): number {
  return elapsedUs > 0 && Number.isFinite(elapsedUs) ? Math.round((amount / elapsedUs) * 1e6) : 0
}
