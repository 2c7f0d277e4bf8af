/** Checksums of KV chunks: xxHash64, seed 0 (I7). */
import xxhash from 'xxhash-wasm'

const { h64Raw, create64 } = await xxhash()

/** What is hashed is copied into WebAssembly's memory first: so much of it stays in a core's own cache until it is. */
const PIECE_BYTES = 128 << 10

export function checksumOf(data: Uint8Array): bigint {
  return checksumOfParts([data])
}

/** Of the parts as if they stood in one piece. */
export function checksumOfParts(parts: readonly Uint8Array[]): bigint {
  const [first] = parts
  if (first !== undefined && parts.length === 1 && first.length <= PIECE_BYTES) return h64Raw(first)
  const hash = create64()
  for (const part of parts) {
    for (let at = 0; at < part.length; at += PIECE_BYTES) hash.update(part.subarray(at, at + PIECE_BYTES))
  }
  return hash.digest()
}
