/**
 * Fetches a shard of postings from the owner of its corpus, over a connection for bulk data.
 *
 * Invariant: what is returned has the size that its own header says, and every chunk matched its
 * checksum (I7). Memory is taken once the header has told how much, and the caller agreed.
 */
import { HEADER_BYTES, readShardHeader, type ShardHeader } from '@kvasir/engine/bm25/shard-format'
import type { Shard } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { shardExportClient } from '@kvasir/runtime/corpus-bulk'
import { withDeadline } from '@kvasir/runtime/deferred'
import { CorruptDataError } from '@kvasir/runtime/errors'
import { callServerStream } from '@kvasir/runtime/rpc-client'
import { checksumOf } from './checksum.js'

/** Longest silence of the owner; it may cut the shard out of a large corpus first. */
const SILENCE_MS = 20_000

export interface ShardSource {
  readonly shard: Shard
  readonly deviceId: string
  /** The owner's KV endpoint. */
  readonly endpoint: string
}

/** @param agree throws where a shard with this header is not wanted; called once, before memory is taken */
export async function fetchShard(
  { shard, deviceId, endpoint }: ShardSource,
  agree: (header: ShardHeader) => void,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const client = shardExportClient(endpoint)
  try {
    const chunks = callServerStream(client, 'export', { shard }, { signal })
    let bytes: Uint8Array | undefined
    let received = 0
    for (;;) {
      const next = await withDeadline(chunks.next(), SILENCE_MS, `waiting for a shard from ${deviceId}`)
      if (next.done === true) break
      const { data, checksum } = next.value
      if (checksumOf(data) !== checksum) throw damaged(deviceId, 'a chunk does not match its checksum')
      if (bytes === undefined) {
        if (data.length < HEADER_BYTES) throw damaged(deviceId, 'its first chunk holds no header')
        const header = readShardHeader(data)
        agree(header)
        bytes = new Uint8Array(header.bytes)
      }
      if (received + data.length > bytes.length) throw damaged(deviceId, 'there is more than its header says')
      bytes.set(data, received)
      received += data.length
    }
    if (bytes === undefined || received < bytes.length) throw damaged(deviceId, 'it is cut off')
    return bytes
  } finally {
    client.close()
  }
}

function damaged(deviceId: string, why: string): CorruptDataError {
  return new CorruptDataError(`A shard from ${deviceId} is damaged: ${why}; fetch it again.`, {
    ids: { deviceId },
  })
}
