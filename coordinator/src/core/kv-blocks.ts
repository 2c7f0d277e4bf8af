/**
 * The unit of KV memory: it is leased, cached and moved in blocks of so many tokens. Attention's pages are blocks of 16;
 * a model with others attends densely, on the device that decodes.
 */
import type { ModelFacts } from './facts.js'

/** Unless a model says otherwise. */
export const BLOCK_TOKENS = 16

/** Tokens of one block of the model. */
export function blockTokensOf({ blockTokens }: Pick<ModelFacts, 'blockTokens'>): number {
  return blockTokens ?? BLOCK_TOKENS
}

/** Bytes of whole blocks for so many tokens, as they are sent. */
export function kvBytes(model: ModelFacts, tokens: number): number {
  return wholeBlocks(tokens, blockTokensOf(model)) * model.kvBytesPerToken
}

/** The same, as they lie in the device's memory. */
export function poolBytes(model: ModelFacts, tokens: number): number {
  return wholeBlocks(tokens, blockTokensOf(model)) * model.poolBytesPerToken
}

/** Tokens that whole blocks hold. */
export function wholeBlocks(tokens: number, blockTokens: number): number {
  return Math.ceil(tokens / blockTokens) * blockTokens
}
