/** Sequences for cases: blocks scattered over the pool, prompts from seeds, parts of both. */
import { BLOCK_TOKENS, type LoadedModelFacts, type StepSequence } from '../device-driver.js'
import { type ConformanceTarget, type LoadedTarget, loadTarget } from './conformance-case.js'

/** More than a case uses: blocks are given out in turn. */
const KV_BLOCKS = 128

export interface SequenceContext extends LoadedTarget {
  /** Blocks that no sequence has used for a while. */
  blocksFor(tokens: number): Uint32Array
  prompt(length: number, seed: number): Uint32Array
  /** Tokens `start` to `end` of a sequence, with logits where that is its end. */
  part(blocks: Uint32Array, tokens: Uint32Array, start: number, end: number): StepSequence
  /** The logits after a whole prompt in one step. */
  runWhole(tokens: Uint32Array, blocks?: Uint32Array): Promise<Float32Array>
}

export async function openSequences(target: ConformanceTarget): Promise<SequenceContext> {
  const loaded = await loadTarget(target, KV_BLOCKS)
  let nextBlock = 0
  const blocksFor = (tokens: number): Uint32Array =>
    Uint32Array.from({ length: Math.ceil(tokens / BLOCK_TOKENS) }, () => (nextBlock++ * 37) % KV_BLOCKS)
  return {
    ...loaded,
    blocksFor,
    prompt: (length, seed) => promptOf(loaded.facts, length, seed),
    part,
    async runWhole(tokens, blocks = blocksFor(tokens.length)) {
      return (await loaded.driver.step([part(blocks, tokens, 0, tokens.length)])).logits
    },
  }
}

export async function closeLoaded({ driver }: Pick<LoadedTarget, 'driver'>): Promise<void> {
  await driver.unload()
}

function promptOf({ vocabularySize }: LoadedModelFacts, length: number, seed: number): Uint32Array {
  return Uint32Array.from({ length }, (_, i) => (i * 31 + seed * 17) % Math.min(90, vocabularySize))
}

function part(blocks: Uint32Array, tokens: Uint32Array, start: number, end: number): StepSequence {
  return {
    blocks: blocks.slice(0, Math.ceil(end / BLOCK_TOKENS)),
    start,
    tokens: tokens.slice(start, end),
    wantLogits: end === tokens.length,
  }
}
