/**
 * The corpus service with a codec of its own for chunks of a shard, for the same reasons as kv-bulk.ts: no copy on
 * the way out or in, the same bytes on the wire as the generated code.
 */
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire'
import { type CallOptions, Metadata } from '@grpc/grpc-js'
import {
  type CorpusServiceClient,
  CorpusServiceService,
  type ExportShardRequest,
  ShardChunk,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import type { PartedMethod } from './bulk-call.js'
import { BulkClient, type BulkClientCall } from './bulk-client.js'

type CorpusService = typeof CorpusServiceService

/** Use in place of CorpusServiceService. */
export const CorpusBulkService: CorpusService & {
  readonly export: CorpusService['export'] & PartedMethod<ShardChunk>
} = {
  ...CorpusServiceService,
  export: {
    ...CorpusServiceService.export,
    responseSerialize: (message) => Buffer.concat(shardChunkParts(message)),
    responseDeserialize: decodeShardChunk,
    responseParts: shardChunkParts,
  },
}

/** The client of a corpus owner's KV endpoint: only Export is called there. */
export type ShardExportClient = Pick<CorpusServiceClient, 'export' | 'getChannel' | 'waitForReady' | 'close'>

class ExportClient extends BulkClient {
  export(
    request: ExportShardRequest,
    metadata = new Metadata(),
    options: Partial<CallOptions> = {},
  ): BulkClientCall {
    const call = this.call(CorpusBulkService.export, metadata, options)
    call.end(request)
    return call
  }
}

/** Connects when the first call is made. */
export function shardExportClient(address: string): ShardExportClient {
  // The helpers use what both transports' streams have in common.
  return new ExportClient(address) as unknown as ShardExportClient
}

const TAG = { data: 10, checksum: 17 } as const
const EMPTY = Buffer.alloc(0)

/** The message, in parts that follow each other. */
export function shardChunkParts({ data, checksum }: ShardChunk): Uint8Array[] {
  const head = data.length === 0 ? EMPTY : new BinaryWriter().uint32(TAG.data).uint32(data.length).finish()
  return [head, data, ShardChunk.encode({ data: EMPTY, checksum }).finish()]
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
