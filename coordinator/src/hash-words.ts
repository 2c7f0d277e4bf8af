/**
 * Block hashes between bytes, as devices and texts name them, and the words that the core compares.
 *
 * Throws InvalidInputError for a hash that has not HASH_BYTES bytes.
 */
import { HASH_BYTES } from '@kvasir/engine/text/block-hash'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { BlockHashes } from './core/block-hashes.js'

export function hashesFromBytes(hashes: readonly Uint8Array[]): BlockHashes {
  const bytes = Buffer.from(new ArrayBuffer(hashes.length * HASH_BYTES))
  hashes.forEach((hash, index) => {
    if (hash.length !== HASH_BYTES) throw wrongLength()
    bytes.set(hash, index * HASH_BYTES)
  })
  return wordsOf(bytes, hashes.length)
}

/** As in protobuf JSON; a device tells of thousands a second. */
export function hashesFromBase64(hashes: readonly string[]): BlockHashes {
  // Room for one more, so that the last one is not cut to its right length where it is too long.
  const bytes = Buffer.from(new ArrayBuffer((hashes.length + 1) * HASH_BYTES))
  hashes.forEach((hash, index) => {
    const written = bytes.write(hash, index * HASH_BYTES, 'base64')
    if (written !== HASH_BYTES) throw wrongLength()
  })
  return wordsOf(bytes, hashes.length)
}

/** HASH_BYTES each, in the same memory. */
export function bytesFromHashes(hashes: BlockHashes): Buffer[] {
  const { buffer, byteOffset, byteLength } = hashes
  return Array.from({ length: byteLength / HASH_BYTES }, (_, index) => {
    return Buffer.from(buffer, byteOffset + index * HASH_BYTES, HASH_BYTES)
  })
}

function wordsOf({ buffer }: Buffer<ArrayBuffer>, count: number): BlockHashes {
  return new Uint32Array(buffer, 0, (count * HASH_BYTES) / Uint32Array.BYTES_PER_ELEMENT)
}

function wrongLength(): InvalidInputError {
  return new InvalidInputError(`A block's hash has not ${HASH_BYTES} bytes.`)
}
