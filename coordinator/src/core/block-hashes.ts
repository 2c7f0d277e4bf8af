/**
 * Names of KV blocks: hashes of 128 bits, each in four words, one after the other. Words are compared and
 * looked up, never interpreted; who makes them reads the bytes of a hash in the machine's own order.
 */
export type BlockHashes = Uint32Array<ArrayBuffer>

export const HASH_WORDS = 4

export const NO_HASHES: BlockHashes = new Uint32Array(0)

export function hashCount(hashes: BlockHashes): number {
  return hashes.length / HASH_WORDS
}

/** Hashes `from` up to, not including, `to`, in the same memory. */
export function hashRange(hashes: BlockHashes, from: number, to?: number): BlockHashes {
  return hashes.subarray(from * HASH_WORDS, to === undefined ? undefined : to * HASH_WORDS)
}
