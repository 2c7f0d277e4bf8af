/**
 * The corpus service with a codec of its own for chunks of a shard, for the same reasons as kv-bulk.ts: one copy
 * on the way out, none on the way in, the same bytes on the wire as the generated code.
 */
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire'
import { type ChannelCredentials, type ClientOptions, makeGenericClientConstructor } from '@grpc/grpc-js'
import {
  type CorpusServiceClient,
  CorpusServiceService,
  ShardChunk,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import { joinedInScratch } from './bulk-scratch.js'

/** Use in place of CorpusServiceService. */
export const CorpusBulkService: typeof CorpusServiceService = {
  ...CorpusServiceService,
  export: {
    ...CorpusServiceService.export,
    responseSerialize: encodeShardChunk,
    responseDeserialize: decodeShardChunk,
  },
}

/** Use in place of CorpusServiceClient. */
export const CorpusBulkClient = makeGenericClientConstructor(
  CorpusBulkService,
  'kvasir.memory.v1.CorpusService',
) as unknown as new (
  address: string,
  credentials: ChannelCredentials,
  options?: Partial<ClientOptions>,
) => CorpusServiceClient

const TAG = { data: 10, checksum: 17 } as const
const EMPTY = Buffer.alloc(0)

/** The result is only good until the next message is put together. */
export function encodeShardChunk({ data, checksum }: ShardChunk): Buffer {
  const head = data.length === 0 ? EMPTY : new BinaryWriter().uint32(TAG.data).uint32(data.length).finish()
  const tail = ShardChunk.encode({ data: EMPTY, checksum }).finish()
  return joinedInScratch([head, data, tail])
}

/** `data` is a view into the message. Throws where the message is malformed. */
export function decodeShardChunk(message: Buffer): ShardChunk {
  const reader = new BinaryReader(message)
  const chunk: ShardChunk = { data: EMPTY, checksum: 0n }
  while (reader.pos < reader.len) {
    switch (reader.uint32()) {
      case TAG.data: {
        const { length } = reader.bytes()
        chunk.data = message.subarray(reader.pos - length, reader.pos)
        break
      }
      case TAG.checksum:
        chunk.checksum = BigInt(reader.fixed64())
        break
      default:
        // Anything out of the ordinary is for the generated code to judge.
        return ShardChunk.decode(message)
    }
  }
  return chunk
}
