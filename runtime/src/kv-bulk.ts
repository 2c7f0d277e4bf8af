/**
 * The KV service with a codec of its own for chunks of KV blocks.
 *
 * The generated code copies a chunk's bytes five times on the way out and once on the way in, into fresh memory
 * each time, which costs more than the network. This one copies nothing: out go the parts that a chunk's data
 * stands in, and what comes in is read where it stands. The bytes on the wire are the same, which a test proves
 * against the generated code; every other message goes through the generated code.
 *
 * A decoded chunk's `data` is a view into the received message: at any offset, so a consumer that needs aligned
 * floats copies it, and must not hand its whole ArrayBuffer to another thread unless it owns the message.
 */
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire'
import type { CallOptions, Metadata } from '@grpc/grpc-js'
import {
  KvChunk,
  KvSegment,
  type KvServiceClient,
  KvServiceService,
  PullResponse,
  PushRequest,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import type { PartedMethod } from './bulk-call.js'
import { BulkClient, type BulkClientCall } from './bulk-client.js'
import { CorruptDataError } from './errors.js'

type KvService = typeof KvServiceService

/** Use in place of KvServiceService. */
export const KvBulkService: KvService & { readonly pull: KvService['pull'] & PartedMethod<PullResponse> } = {
  ...KvServiceService,
  push: { ...KvServiceService.push, requestDeserialize: decodePushRequest },
  pull: {
    ...KvServiceService.pull,
    responseSerialize: (message) => Buffer.concat(pullResponseParts(message)),
    responseDeserialize: decodePullResponse,
    responseParts: pullResponseParts,
  },
}

/** The client of a KV endpoint: only Pull is called there. */
export type KvPullClient = Pick<KvServiceClient, 'pull' | 'getChannel' | 'waitForReady' | 'close'>

class PullClient extends BulkClient {
  pull(metadata: Metadata, options?: Partial<CallOptions>): BulkClientCall {
    return this.call(KvBulkService.pull, metadata, options)
  }
}

/** Connects when the first call is made. */
export function kvPullClient(address: string): KvPullClient {
  // The helpers use what both transports' streams have in common.
  return new PullClient(address) as unknown as KvPullClient
}

const TAG = { chunk: 18, sequence: 8, segments: 18, data: 26, checksum: 33 } as const
const EMPTY = Buffer.alloc(0)

const scattered = new WeakMap<KvChunk, readonly Uint8Array[]>()

/** A chunk whose data stands in several places. Its own `data` is empty: nothing but this codec sends it. */
export function scatteredChunk(chunk: Omit<KvChunk, 'data'>, parts: readonly Uint8Array[]): KvChunk {
  const value = { ...chunk, data: EMPTY }
  scattered.set(value, parts)
  return value
}

/** The message, in parts that follow each other. */
export function pullResponseParts(response: PullResponse): Uint8Array[] {
  if (response.message?.$case !== 'chunk') return [PullResponse.encode(response).finish()]
  const { sequence, segments, data, checksum } = response.message.value
  const parts = scattered.get(response.message.value) ?? [data]
  const bytes = parts.reduce((sum, { length }) => sum + length, 0)
  const head = KvChunk.encode({ sequence, segments, data: EMPTY, checksum: 0n }).finish()
  const dataHead = bytes === 0 ? EMPTY : prefix(TAG.data, bytes)
  const tail = KvChunk.encode({ sequence: 0n, segments: [], data: EMPTY, checksum }).finish()
  const chunkHead = prefix(TAG.chunk, head.length + dataHead.length + bytes + tail.length)
  return [Buffer.concat([chunkHead, head, dataHead]), ...parts, tail]
}

/** Throws where the message is malformed. */
export function decodePullResponse(message: Buffer): PullResponse {
  const value = decodeChunk(message)
  return value === undefined ? PullResponse.decode(message) : { message: { $case: 'chunk', value } }
}

/** Throws where the message is malformed. */
export function decodePushRequest(message: Buffer): PushRequest {
  const value = decodeChunk(message)
  return value === undefined ? PushRequest.decode(message) : { message: { $case: 'chunk', value } }
}

/** The chunk of either message, which has the same tag in both; undefined where the generated code is to judge. */
function decodeChunk(message: Buffer): KvChunk | undefined {
  if (message[0] !== TAG.chunk) return undefined
  const reader = new BinaryReader(message)
  reader.uint32()
  const end = reader.uint32() + reader.pos
  // Anything out of the ordinary.
  if (end !== message.length) return undefined
  const chunk: KvChunk = { sequence: 0n, segments: [], data: EMPTY, checksum: 0n }
  while (reader.pos < end) {
    switch (reader.uint32()) {
      case TAG.sequence:
        chunk.sequence = BigInt(reader.uint64())
        break
      case TAG.segments:
        chunk.segments.push(KvSegment.decode(reader, reader.uint32()))
        break
      case TAG.data: {
        const { length } = reader.bytes()
        chunk.data = message.subarray(reader.pos - length, reader.pos)
        break
      }
      case TAG.checksum:
        chunk.checksum = BigInt(reader.fixed64())
        break
      default:
        return undefined
    }
  }
  if (reader.pos !== end) throw new CorruptDataError('A KV chunk is cut off.')
  return chunk
}

function prefix(tag: number, length: number): Uint8Array {
  return new BinaryWriter().uint32(tag).uint32(length).finish()
}
