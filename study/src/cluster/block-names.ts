/**
 * Names of KV blocks: a workload numbers them, an agent's core compares texts, the coordinator's four words.
 */
import type { BlockHashes } from '@kvasir/coordinator/core/block-hashes'
import { HASH_WORDS } from '@kvasir/coordinator/core/block-hashes'

const WORD = 2 ** 32
const NO_BLOCKS: BlockHashes = new Uint32Array(0)

/** As an agent's core names it. */
export function blockText(block: number): string {
  return String(block)
}

export function blockTexts(blocks: readonly number[]): readonly string[] {
  return blocks.map(blockText)
}

/** As the coordinator's core names them. */
export function wordsOfBlocks(blocks: readonly number[]): BlockHashes {
  if (blocks.length === 0) return NO_BLOCKS
  const words = new Uint32Array(blocks.length * HASH_WORDS)
  blocks.forEach((block, index) => {
    const low = block % WORD
    // The directory spreads blocks by their words, which those of real hashes do by themselves.
    words[index * HASH_WORDS] = Math.imul(low ^ (low >>> 15), 0x2c1b3c6d)
    words[index * HASH_WORDS + 1] = Math.imul(low ^ (low >>> 12), 0x297a2d39)
    words[index * HASH_WORDS + 2] = low
    words[index * HASH_WORDS + 3] = Math.floor(block / WORD)
  })
  return words
}

export function wordsOfTexts(texts: Iterable<string>): BlockHashes {
  const blocks: number[] = []
  for (const text of texts) blocks.push(Number(text))
  return wordsOfBlocks(blocks)
}
