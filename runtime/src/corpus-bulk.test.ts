import { ShardChunk } from '@kvasir/proto/kvasir/memory/v1/corpus'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeShardChunk, shardChunkParts } from './corpus-bulk.js'

const chunks = fc.record({
  data: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  checksum: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
})

const generated = (chunk: ShardChunk) => Buffer.from(ShardChunk.encode(chunk).finish())

test('chunks of a shard are the same bytes as those of the generated code, both ways', () => {
  fc.assert(
    fc.property(chunks, (chunk) => {
      expect(Buffer.concat(shardChunkParts(chunk))).toEqual(generated(chunk))
      expect(decodeShardChunk(generated(chunk))).toEqual(chunk)
    }),
  )
})

test('any other bytes are read as the generated code reads them, or refused', () => {
  const read = (decode: () => ShardChunk) => {
    try {
      return decode()
    } catch {
      return 'malformed'
    }
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      const message = Buffer.from(bytes)
      const ours = read(() => decodeShardChunk(message))
      if (ours !== 'malformed') expect(ours).toEqual(read(() => ShardChunk.decode(message)))
    }),
    { numRuns: 2_000 },
  )
})
