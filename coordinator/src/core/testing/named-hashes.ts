/**
 * Hashes of blocks that tests know by names: the same name is always the same hash, and no two are alike.
 */
import { type BlockHashes, HASH_WORDS } from '../block-hashes.js'

export function hashesOf(names: readonly string[]): BlockHashes {
  const hashes = new Uint32Array(names.length * HASH_WORDS)
  names.forEach((name, index) => {
    for (let word = 0; word < HASH_WORDS; word += 1) hashes[index * HASH_WORDS + word] = mixed(name, word)
  })
  return hashes
}

/** FNV-1a, then the end of MurmurHash3, which spreads it. */
function mixed(name: string, seed: number): number {
  let hash = (0x811c9dc5 ^ seed) >>> 0
  for (let at = 0; at < name.length; at += 1) hash = Math.imul(hash ^ name.charCodeAt(at), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}
