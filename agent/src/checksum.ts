/** Checksums of KV chunks: xxHash64, seed 0 (I7). */
import xxhash from 'xxhash-wasm'

const { h64Raw } = await xxhash()

export function checksumOf(data: Uint8Array): bigint {
  return h64Raw(data)
}
