/**
 * The block hashes of one sequence: those of its prompt at once, those of what it generates as blocks fill.
 */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { blockHashes, rootHash } from '@kvasir/engine/text/block-hash'
import { hashText } from './kv-index.js'

export class HashChain {
  /** Of the prompt's full blocks. */
  readonly prompt: readonly string[]
  /** Hash of the last full block, or the root. */
  private tip: Uint8Array
  private blocks: number

  /** `tenantSalt` roots the chain, so that tenants share no block. */
  constructor(modelDigest: string, tenantSalt: Uint8Array, prompt: readonly number[]) {
    const root = rootHash(modelDigest, '', Buffer.from(tenantSalt).toString('hex'))
    const hashes = blockHashes(root, prompt)
    this.prompt = hashes.map(hashText)
    this.tip = hashes.at(-1) ?? root
    this.blocks = hashes.length
  }

  /** The hash of the block behind the last known one, where the first `computedTokens` of `tokens` just fill it. */
  filled(tokens: readonly number[], computedTokens: number): string | undefined {
    const from = this.blocks * BLOCK_TOKENS
    if (computedTokens !== from + BLOCK_TOKENS) return undefined
    const [hash] = blockHashes(this.tip, tokens.slice(from, computedTokens))
    if (hash === undefined) return undefined
    this.tip = hash
    this.blocks += 1
    return hashText(hash)
  }
}
