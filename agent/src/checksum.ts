/** Checksums of KV chunks: xxHash64, seed 0 (I7). */
import xxhash from 'xxhash-wasm'

const { h64Raw, create64 } = await xxhash()

export function checksumOf(data: Uint8Array): bigint {
  return h64Raw(data)
}

/** Of the parts as if they stood in one piece. */
export function checksumOfParts(parts: readonly Uint8Array[]): bigint {
  const [first] = parts
  if (first !== undefined && parts.length === 1) return h64Raw(first)
  const hash = create64()
  for (const part of parts) hash.update(part)
  return hash.digest()
}
