/**
 * The unit of KV memory: it is leased, cached and moved in blocks of so many tokens.
 */
import type { ModelFacts } from './facts.js'

export const BLOCK_TOKENS = 16

/** Bytes of whole blocks for so many tokens, as they are sent. */
export function kvBytes(model: ModelFacts, tokens: number): number {
  return wholeBlocks(tokens) * model.kvBytesPerToken
}

/** The same, as they lie in the device's memory. */
export function poolBytes(model: ModelFacts, tokens: number): number {
  return wholeBlocks(tokens) * model.poolBytesPerToken
}

/** Tokens that whole blocks hold. */
export function wholeBlocks(tokens: number): number {
  return Math.ceil(tokens / BLOCK_TOKENS) * BLOCK_TOKENS
}
