/** What goes into a step: the check of its sequences, and their tokens and positions as tensors. */
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { Tensor } from 'onnxruntime-node'
import { BLOCK_TOKENS, type LoadedModelFacts, type StepSequence } from './device-driver.js'
import type { KvSlabs } from './kv-slab.js'
import { STEP_ROWS_MAX } from './limits.js'
import type { StepLayout } from './step-layout.js'

/**
 * Throws InvalidInputError for a step that breaks the rules of its types, UnsupportedError for sparse or remote
 * attention of a model whose layers look back differently far: pages are chosen and held for all layers alike.
 */
export function checkStep(sequences: readonly StepSequence[], facts: LoadedModelFacts, slabs: KvSlabs): void {
  let rows = 0
  for (const sequence of sequences) {
    const { blocks, start, tokens } = sequence
    const end = start + tokens.length
    rows += tokens.length
    if (tokens.length === 0) throw new InvalidInputError('A sequence of a step has no new tokens.')
    if (end > facts.contextTokensMax) {
      throw new InvalidInputError(
        `A sequence of ${end} tokens is longer than the context of ${facts.contextTokensMax}.`,
      )
    }
    checkPages(sequence)
    if (facts.slidingWindowTokens !== undefined && (sequence.attention ?? sequence.remote) !== undefined) {
      throw new UnsupportedError(
        `The model ${facts.name} has a sliding window of ${facts.slidingWindowTokens} tokens, with which pages are not chosen and no other device attends; use dense attention.`,
      )
    }
    const elsewhere = sequence.remote?.mode === 'partial' ? sequence.remote.pages : 0
    if ((elsewhere + blocks.length) * BLOCK_TOKENS < end) {
      throw new InvalidInputError(`A sequence of ${end} tokens has only ${blocks.length} blocks.`)
    }
    slabs.checkBlocks(blocks)
    for (const token of tokens) {
      if (token >= facts.vocabularySize) {
        throw new InvalidInputError(`Token ${token} is outside the vocabulary of ${facts.name}.`)
      }
    }
  }
  if (rows === 0 || rows > STEP_ROWS_MAX) {
    throw new InvalidInputError(`A step takes 1 to ${STEP_ROWS_MAX} new tokens, not ${rows}.`)
  }
}

function checkPages({ start, tokens, attention, remote }: StepSequence): void {
  if (attention !== undefined && !(Number.isInteger(attention.pages) && attention.pages >= 1)) {
    throw new InvalidInputError(`Sparse attention takes 1 page or more, not ${attention.pages}.`)
  }
  if (remote === undefined) return
  if (tokens.length !== 1) {
    throw new InvalidInputError(`Remote attention is for one new token, not ${tokens.length}.`)
  }
  const full = Math.floor(start / BLOCK_TOKENS)
  if (!(Number.isInteger(remote.pages) && remote.pages >= 0 && remote.pages <= full)) {
    throw new InvalidInputError(
      `Another device can hold 0 to ${full} full pages of ${start} tokens, not ${remote.pages}.`,
    )
  }
  if (attention !== undefined && attention.method !== 'page-bounds') {
    throw new InvalidInputError(
      `Pages of method ${attention.method} are chosen on the decoding device alone; use page-bounds.`,
    )
  }
}

export function rowTensor(values: Float32Array, rows: number): Tensor {
  return new Tensor('float32', values, [1, rows, values.length / rows])
}

/** `[1, rows]`. */
export function positionsOf({ entries, rows }: StepLayout): Tensor {
  const positions = new BigInt64Array(rows)
  for (const { lane, row } of entries) {
    const { start, tokens } = lane.sequence
    for (let i = 0; i < tokens.length; i++) positions[row + i] = BigInt(start + i)
  }
  return new Tensor('int64', positions, [1, rows])
}

/** `[rows, hidden]`. `embed` writes a token's row of the table. */
export function embedRows(
  { entries, rows }: StepLayout,
  embed: (token: number, target: Float32Array) => void,
  hiddenSize: number,
): Float32Array {
  const x = new Float32Array(rows * hiddenSize)
  for (const { lane, row } of entries) {
    for (const [i, token] of lane.sequence.tokens.entries()) {
      embed(token, x.subarray((row + i) * hiddenSize, (row + i + 1) * hiddenSize))
    }
  }
  return x
}
