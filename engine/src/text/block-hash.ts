/**
 * Names of full KV blocks.
 *
 * H1 A block's hash is the first 128 bits of SHA-256 over (parent's hash, the block's tokens as
 *    32-bit little-endian), so equal hashes mean equal tokens from the start of the text.
 * H2 The chain is rooted in (model digest, adapter, tenant salt): no two of these share a block.
 * H3 Only full blocks have a hash; the tokens of a partial tail have none.
 */
import { createHash } from 'node:crypto'
import { BLOCK_TOKENS } from '../device-driver.js'

export const HASH_BYTES = 16

/**
 * The parent of a text's first block.
 * Every part is preceded by its length, so that no two triples give the same bytes.
 */
export function rootHash(modelDigest: string, adapter: string, tenantSalt: string): Uint8Array {
  const hash = createHash('sha256').update('kvasir-kv-root-1\0')
  for (const part of [modelDigest, adapter, tenantSalt]) {
    const bytes = Buffer.from(part, 'utf8')
    const length = Buffer.alloc(4)
    length.writeUInt32LE(bytes.length)
    hash.update(length).update(bytes)
  }
  return new Uint8Array(hash.digest().subarray(0, HASH_BYTES))
}

/**
 * Hashes of the full blocks of `tokens`, in order, 16 bytes each.
 * `root` is a root hash, or the hash of the block before `tokens[0]`.
 */
export function blockHashes(root: Uint8Array, tokens: ArrayLike<number>): Uint8Array[] {
  const hashes: Uint8Array[] = []
  const message = Buffer.alloc(HASH_BYTES + BLOCK_TOKENS * 4)
  message.set(root, 0)
  for (let start = 0; start + BLOCK_TOKENS <= tokens.length; start += BLOCK_TOKENS) {
    for (let i = 0; i < BLOCK_TOKENS; i++) message.writeUInt32LE(tokens[start + i] ?? 0, HASH_BYTES + i * 4)
    const hash = new Uint8Array(createHash('sha256').update(message).digest().subarray(0, HASH_BYTES))
    hashes.push(hash)
    message.set(hash, 0)
  }
  return hashes
}
