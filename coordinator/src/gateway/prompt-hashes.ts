/**
 * Names of a prompt's full blocks, rooted in the model and the tenant: equal names mean equal tokens from
 * the start, of one model, of one tenant.
 */
import { blockHashes, rootHash } from '@kvasir/engine/text/block-hash'
import type { BlockHashes } from '../core/block-hashes.js'
import { hashesFromBytes } from '../hash-words.js'

/** In order. Devices compute the same from the tokens and the salt. */
export function promptHashes(
  modelDigest: string,
  tenantSalt: Uint8Array,
  tokens: ArrayLike<number>,
): BlockHashes {
  const root = rootHash(modelDigest, '', Buffer.from(tenantSalt).toString('hex'))
  return hashesFromBytes(blockHashes(root, tokens))
}
