/**
 * What a device step computes, in the terms of the catalogue: the chunks of prompts in it, the sequences that decode, and
 * from which memory their KV is read. Pure.
 *
 * Attention that another device does, or that pages were left out of, is not read here.
 */
import type { StepWork } from '@kvasir/catalogue/device-times'
import { BLOCK_TOKENS, type StepSequence } from '@kvasir/engine/device-driver'

/**
 * `tierBlocks`: blocks of each memory, nearest first; block ids count through them in this order. `movedBlocks`: between
 * the memories since the last step, which this one pays for.
 *
 * @param kvBytesPerToken of the catalogued model
 */
export function stepWorkOf(
  sequences: readonly StepSequence[],
  movedBlocks: number,
  tierBlocks: readonly number[],
  kvBytesPerToken: number,
): StepWork {
  const prefills: { start: number; count: number }[] = []
  const decodes: number[] = []
  const kvReadBytes = tierBlocks.map(() => movedBlocks * BLOCK_TOKENS * kvBytesPerToken)
  for (const sequence of sequences) {
    const { start, tokens } = sequence
    if (tokens.length !== 1) {
      prefills.push({ start, count: tokens.length })
      continue
    }
    const here = tokensHere(sequence)
    const read = tokensRead(sequence, here)
    decodes.push(read)
    if (tierBlocks.length > 1)
      addReads(kvReadBytes, sequence, tierBlocks, here, (read / here) * kvBytesPerToken)
  }
  return { prefills, decodes, ...(tierBlocks.length > 1 ? { kvReadBytes } : {}) }
}

/** Tokens whose KV this device holds, the new one included. */
function tokensHere({ start, remote }: StepSequence): number {
  const context = start + 1
  return remote?.mode === 'partial' ? Math.max(1, context - remote.pages * BLOCK_TOKENS) : context
}

/** Of those, the ones that the new one attends to. */
function tokensRead({ attention }: StepSequence, here: number): number {
  return attention === undefined ? here : Math.min(here, attention.pages * BLOCK_TOKENS)
}

function addReads(
  kvReadBytes: number[],
  { blocks }: StepSequence,
  tierBlocks: readonly number[],
  tokens: number,
  bytesPerToken: number,
): void {
  let left = tokens
  for (const block of blocks) {
    const tier = tierOf(block, tierBlocks)
    kvReadBytes[tier] = (kvReadBytes[tier] ?? 0) + Math.min(BLOCK_TOKENS, Math.max(0, left)) * bytesPerToken
    left -= BLOCK_TOKENS
  }
}

function tierOf(block: number, tierBlocks: readonly number[]): number {
  let first = 0
  for (const [tier, blocks] of tierBlocks.entries()) {
    first += blocks
    if (block < first) return tier
  }
  return tierBlocks.length - 1
}
