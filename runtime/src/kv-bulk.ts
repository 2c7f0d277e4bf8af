/**
 * The KV service with a codec of its own for chunks of KV blocks.
 *
 * The generated code copies a chunk's bytes five times on the way out and once on the
 * way in, into fresh memory each time, which costs more than the network. This one
 * copies once on the way out, into the same memory, and not at all on the way in. The bytes on
 * the wire are the same, which a test proves against the generated code; every other message goes
 * through the generated code.
 *
 * A decoded chunk's `data` is a view into the received message: at any offset, so a
 * consumer that needs aligned floats copies it, and must not hand its whole
 * ArrayBuffer to another thread unless it owns the message.
 */
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire'
import { type ChannelCredentials, type ClientOptions, makeGenericClientConstructor } from '@grpc/grpc-js'
import {
  KvChunk,
  KvSegment,
  type KvServiceClient,
  KvServiceService,
  PullResponse,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { joinedInScratch } from './bulk-scratch.js'
import { CorruptDataError } from './errors.js'

/** Use in place of KvServiceService. */
export const KvBulkService: typeof KvServiceService = {
  ...KvServiceService,
  pull: {
    ...KvServiceService.pull,
    responseSerialize: encodePullResponse,
    responseDeserialize: decodePullResponse,
  },
}

/** Use in place of KvServiceClient. */
export const KvBulkClient = makeGenericClientConstructor(
  KvBulkService,
  'kvasir.kv.v1.KvService',
) as unknown as new (
  address: string,
  credentials: ChannelCredentials,
  options?: Partial<ClientOptions>,
) => KvServiceClient

const TAG = { chunk: 18, sequence: 8, segments: 18, data: 26, checksum: 33 } as const
const EMPTY = Buffer.alloc(0)

/** Where the data of a chunk stands, and how its checksum is taken. */
interface Scattered {
  readonly parts: readonly Uint8Array[]
  readonly checksumOf: (data: Uint8Array) => bigint
}

const scattered = new WeakMap<KvChunk, Scattered>()

/**
 * A chunk whose data stands in several places: it is put together, and its checksum taken, only as it is
 * sent, in memory that the processor still has at hand. Its own `data` is empty: nothing but this codec sends it.
 */
export function scatteredChunk(chunk: Pick<KvChunk, 'sequence' | 'segments'>, data: Scattered): KvChunk {
  const value = { ...chunk, data: EMPTY, checksum: 0n }
  scattered.set(value, data)
  return value
}

/** The result is only good until the next message is put together. */
export function encodePullResponse(response: PullResponse): Buffer {
  if (response.message?.$case !== 'chunk') return Buffer.from(PullResponse.encode(response).finish())
  const chunk = response.message.value
  const parts = scattered.get(chunk)
  return parts === undefined ? encodeChunk(chunk) : encodeScattered(chunk, parts)
}

function encodeChunk({ data, checksum, sequence, segments }: KvChunk): Buffer {
  const head = KvChunk.encode({ sequence, segments, data: EMPTY, checksum: 0n }).finish()
  const tail = KvChunk.encode({ sequence: 0n, segments: [], data: EMPTY, checksum }).finish()
  const dataHead = data.length === 0 ? EMPTY : prefix(TAG.data, data.length)
  const chunkBytes = head.length + dataHead.length + data.length + tail.length
  const chunkHead = prefix(TAG.chunk, chunkBytes)
  return joinedInScratch([chunkHead, head, dataHead, data, tail])
}

/** Tag and value of the checksum. */
const CHECKSUM_BYTES = 9

function encodeScattered({ sequence, segments }: KvChunk, { parts, checksumOf }: Scattered): Buffer {
  const head = KvChunk.encode({ sequence, segments, data: EMPTY, checksum: 0n }).finish()
  const dataBytes = parts.reduce((sum, { length }) => sum + length, 0)
  const dataHead = prefix(TAG.data, dataBytes)
  const chunkHead = prefix(TAG.chunk, head.length + dataHead.length + dataBytes + CHECKSUM_BYTES)
  const tail = new Uint8Array(CHECKSUM_BYTES)
  const message = joinedInScratch([chunkHead, head, dataHead, ...parts, tail])
  const end = message.length - CHECKSUM_BYTES
  message[end] = TAG.checksum
  message.writeBigUInt64LE(checksumOf(message.subarray(end - dataBytes, end)), end + 1)
  return message
}

/** Throws where the message is malformed. */
export function decodePullResponse(message: Buffer): PullResponse {
  if (message[0] !== TAG.chunk) return PullResponse.decode(message)
  const reader = new BinaryReader(message)
  reader.uint32()
  const end = reader.uint32() + reader.pos
  // Anything out of the ordinary is for the generated code to judge.
  if (end !== message.length) return PullResponse.decode(message)
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
        return PullResponse.decode(message)
    }
  }
  if (reader.pos !== end) throw new CorruptDataError('A KV chunk is cut off.')
  return { message: { $case: 'chunk', value: chunk } }
}

function prefix(tag: number, length: number): Uint8Array {
  return new BinaryWriter().uint32(tag).uint32(length).finish()
}
