/**
 * A sender of `kvasir bench kv` that is no agent: `BLOCKS PROMPTS FACTS`, the last as the sink announces them.
 *
 * A stock gRPC client, with no option and no codec of ours, reserves memory and pushes as many prompts of so many
 * blocks, with checksums, in chunks of a megabyte.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { credentials, Metadata } from '@grpc/grpc-js'
import { checksumOf } from '@kvasir/agent/checksum'
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import {
  KvServiceClient,
  type PushRequest,
  type PushResponse,
  type ReserveResponse,
  type SnapshotResponse,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { announceReady, watchParent } from '@kvasir/runtime/lifecycle'
import { PROTOCOL_METADATA, PROTOCOL_VERSION } from '@kvasir/runtime/protocol'

const chunkBytes = 1 << 20

const [blocksText, promptsText, factsText = '{}'] = process.argv.slice(2)
const blocks = Number(blocksText)
const prompts = Number(promptsText)
const { control, kv, digest, layers, blockLayerBytes } = JSON.parse(factsText)
watchParent(() => process.exit(1))

const metadata = new Metadata()
metadata.set(PROTOCOL_METADATA, String(PROTOCOL_VERSION))
const controlClient = new KvServiceClient(control, credentials.createInsecure())
const kvClient = new KvServiceClient(kv, credentials.createInsecure())

const data = randomBytes(Math.floor(chunkBytes / blockLayerBytes) * blockLayerBytes)

function reserve(requestId: string): Promise<ReserveResponse> {
  const request = {
    requestId,
    epoch: 1,
    modelDigest: digest,
    tokens: blocks * BLOCK_TOKENS,
    profile: 'PROFILE_EXACT',
    purpose: 'LEASE_PURPOSE_ATTEND',
  } as const
  return new Promise((resolve, reject) => {
    controlClient.reserve(request, metadata, (error, answer) =>
      error === null ? resolve(answer) : reject(error),
    )
  })
}

async function variantAt(client: KvServiceClient): Promise<SnapshotResponse['variant']> {
  const [first]: SnapshotResponse[] = await once(client.snapshot({}, metadata), 'data')
  return first?.variant
}

/** The blocks of one layer after the other. */
function* chunks(): Generator<PushRequest['message']> {
  let sequence = 0n
  for (let layer = 0; layer < layers; layer += 1) {
    for (let firstBlock = 0; firstBlock < blocks; ) {
      const blockCount = Math.min(data.length / blockLayerBytes, blocks - firstBlock)
      const part = data.subarray(0, blockCount * blockLayerBytes)
      sequence += 1n
      const segments = [{ layer, firstBlock, blockCount }]
      yield { $case: 'chunk', value: { sequence, segments, data: part, checksum: checksumOf(part) } }
      firstBlock += blockCount
    }
  }
}

async function push(requestId: string, variant: SnapshotResponse['variant']): Promise<PushResponse> {
  const { lease } = await reserve(requestId)
  const hashes = Array.from({ length: blocks }, () => randomBytes(16))
  let settle: (error: unknown, answer?: PushResponse) => void = () => {}
  const answered = new Promise<PushResponse>((resolve, reject) => {
    settle = (error, answer) => (answer === undefined ? reject(error) : resolve(answer))
  })
  const call = kvClient.push(metadata, (error, answer) => settle(error, answer))
  call.write({ message: { $case: 'open', value: { lease, modelDigest: digest, variant, hashes } } })
  for (const message of chunks()) if (!call.write({ message })) await once(call, 'drain')
  call.end()
  return answered
}

const variant = await variantAt(controlClient)
let bytes = 0
const begin = performance.now()
for (let prompt = 0; prompt < prompts; prompt += 1) {
  bytes += Number((await push(`push-${process.pid}-${prompt}`, variant)).bytes)
}
announceReady({ bytesPerSecond: bytes / ((performance.now() - begin) / 1_000) })
controlClient.close()
kvClient.close()
