/** The bytes of cached blocks as their holder sends them, for tests that compare them before and after a move. */
import { createHash } from 'node:crypto'
import { systemClock } from '@kvasir/runtime/clock'
import type { KvShape } from '../block-holder.js'
import { bulkClient } from '../endpoint-clients.js'
import { pullKv } from '../incoming-transfer.js'

/** SHA-256 of each block's bytes over all layers, in order, as far as the holder still has them. */
export async function cachedDigests(
  endpoint: string,
  shape: KvShape,
  hashes: readonly string[],
): Promise<string[]> {
  const client = bulkClient(endpoint)
  const { layers, blockLayerBytes } = shape
  const blocks = hashes.map(() => Buffer.alloc(layers * blockLayerBytes))
  const { blocks: received } = await pullKv({
    client,
    sourceDeviceId: 'holder',
    wanted: { hashes },
    shape,
    lease: { deviceId: 'test', incarnation: 1n, counter: 1n, ttlMs: 0 },
    windowBytes: 1 << 20,
    async write({ layer, first, count }, data) {
      for (let place = 0; place < count; place += 1) {
        const part = data.subarray(place * blockLayerBytes, (place + 1) * blockLayerBytes)
        blocks[first + place]?.set(part, layer * blockLayerBytes)
      }
    },
    clock: systemClock,
    silenceMs: 5_000,
    signal: new AbortController().signal,
  })
  client.close()
  return blocks.slice(0, received).map((data) => createHash('sha256').update(data).digest('hex'))
}
