/** A store of KV beside the cluster: what it took from a device and pushes back makes the same text, computed once. */
import { credentials, Metadata } from '@grpc/grpc-js'
import { HashChain } from '@kvasir/agent/hash-chain'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import {
  type KvChunk,
  KvServiceClient,
  LeasePurpose,
  type PullRequest,
  type PullResponse,
  type PushRequest,
  type PushResponse,
  type ReserveResponse,
  type SnapshotResponse,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { PROTOCOL_METADATA } from '@kvasir/runtime/protocol'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, skald, TestCluster, until, untilIdle } from './support/cluster.js'
import { streamCompletion } from './support/streams.js'

const prompt = 'Once upon a time there was a girl who lived by the sea and counted ships. '.repeat(8)
const maxTokens = 16

let cluster: TestCluster
const clients: KvServiceClient[] = []

beforeAll(async () => {
  cluster = await TestCluster.start({ agents: [gpu(), fpga()] })
}, 120_000)
afterAll(async () => {
  for (const client of clients) client.close()
  await cluster?.stop()
})

/** As anyone makes one, in any language: no codec and no options of ours. */
function stockClient(address: string): KvServiceClient {
  const client = new KvServiceClient(address, credentials.createInsecure())
  clients.push(client)
  return client
}

function metadata(): Metadata {
  const all = new Metadata()
  all.set(PROTOCOL_METADATA, '1')
  return all
}

async function endpointsOf(name: string) {
  const { devices } = await cluster.cluster()
  const found = devices.find(({ deviceId }) => deviceId === name)
  if (found === undefined) throw new Error(`The cluster has no device ${name}`)
  return found.endpoints
}

async function digestOf(name: string): Promise<string> {
  const { data } = (await cluster.json('/v1/models')) as {
    data: { id: string; kvasir: { digest: string } }[]
  }
  const found = data.find(({ id }) => id === name)
  if (found === undefined) throw new Error(`The cluster has no model ${name}`)
  return found.kvasir.digest
}

async function directoryBlocks(): Promise<number> {
  return ((await cluster.json('/v1/kv')) as { directory: { blocks: number } }).directory.blocks
}

/** Of the blocks that a device holds. */
function variantAt(client: KvServiceClient): Promise<SnapshotResponse['variant']> {
  return new Promise((resolve, reject) => {
    client
      .snapshot({}, metadata())
      .on('data', ({ variant }: SnapshotResponse) => resolve(variant))
      .on('error', reject)
  })
}

/** All chunks of cached blocks, acknowledged as they come. */
function pull(client: KvServiceClient, open: PullRequest['message']): Promise<KvChunk[]> {
  return new Promise((resolve, reject) => {
    const call = client.pull(metadata())
    const chunks: KvChunk[] = []
    call.on('data', ({ message }: PullResponse) => {
      if (message?.$case === 'end') call.end()
      if (message?.$case !== 'chunk') return
      chunks.push(message.value)
      call.write({ message: { $case: 'ack', value: { sequence: message.value.sequence } } })
    })
    call.on('error', reject)
    call.on('end', () => resolve(chunks))
    call.write({ message: open })
  })
}

function push(client: KvServiceClient, messages: PushRequest['message'][]): Promise<PushResponse> {
  return new Promise((resolve, reject) => {
    const call = client.push(metadata(), (error, response) =>
      error === null ? resolve(response) : reject(error),
    )
    for (const message of messages) call.write({ message })
    call.end()
  })
}

test('blocks that a stock client stores and pushes back are a prefix that is cached, and give the same text', async () => {
  const before = await streamCompletion(cluster, { prompt, maxTokens })
  const { control, kv } = await endpointsOf('fpga-0')
  const tokens = (await loadTextModel(skald)).encode(prompt)
  const modelDigest = await digestOf('skald')
  const variant = await variantAt(stockClient(control))
  const hashes = new HashChain(modelDigest, Buffer.alloc(0), tokens).prompt.map((hash) =>
    Buffer.from(hash, 'hex'),
  )
  await untilIdle(cluster)
  const receiverLease = { deviceId: 'store', incarnation: 1n, counter: 1n, ttlMs: 0 }
  const cached = { modelDigest, variant, hashes }
  const open = {
    transferId: '',
    receiverLease,
    windowBytes: 1n << 20n,
    timing: 'PULL_TIMING_LAYERED',
    cached,
  } as const
  const chunks = await pull(stockClient(kv), { $case: 'open', value: open })
  expect(chunks.length).toBeGreaterThan(0)

  await cluster.json('/v1/kv/evict', { drop: true })
  await until('nobody has the blocks', async () => (await directoryBlocks()) === 0)
  const { lease } = await new Promise<ReserveResponse>((resolve, reject) => {
    const request = {
      requestId: 'store',
      epoch: 1,
      modelDigest,
      tokens: hashes.length * 16,
      profile: 'PROFILE_EXACT',
      purpose: LeasePurpose.ATTEND,
    } as const
    stockClient(control).reserve(request, metadata(), (error, response) =>
      error === null ? resolve(response) : reject(error),
    )
  })
  const pushed = await push(stockClient(kv), [
    { $case: 'open', value: { lease, modelDigest, variant, hashes } },
    ...chunks.map((value) => ({ $case: 'chunk', value }) as const),
  ])
  expect(pushed.blocks).toBe(hashes.length)
  await until('the coordinator knows of them', async () => (await directoryBlocks()) >= hashes.length)

  const after = await streamCompletion(cluster, { prompt, maxTokens })
  expect(after.text).toBe(before.text)
  expect((await cluster.request(after.requestId)).cachedTokens).toBeGreaterThanOrEqual(
    (hashes.length - 1) * 16,
  )
  await untilIdle(cluster)
}, 60_000)
