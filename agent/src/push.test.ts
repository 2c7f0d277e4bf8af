/** A store of KV that is no agent: a stock client of grpc-js takes blocks from one device and pushes them to another. */
import { credentials, Metadata, type ServiceError } from '@grpc/grpc-js'
import {
  type KvChunk,
  KvServiceClient,
  type Lease,
  LeasePurpose,
  type PushOpen,
  type PushRequest,
  type PushResponse,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { deferred } from '@kvasir/runtime/deferred'
import { PROTOCOL_METADATA } from '@kvasir/runtime/protocol'
import { callBidi, callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import { fromServiceError } from '@kvasir/runtime/rpc-errors'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { checksumOf } from './checksum.js'
import { hashBytes } from './kv-index.js'
import { expectedTokens } from './testing/fake-driver.js'
import { onlyModel, promptOf, readDecode, TestDevice } from './testing/test-devices.js'

const capabilities = ['CAPABILITY_PREFILL', 'CAPABILITY_DECODE', 'CAPABILITY_ATTEND'] as const

let source: TestDevice
let target: TestDevice
const clients: KvServiceClient[] = []

beforeAll(async () => {
  source = await TestDevice.start({ deviceId: 'gpu-0' })
  target = await TestDevice.start({ deviceId: 'fpga-0', capabilities, limits: { pushSilenceMs: 200 } })
})
afterEach(async () => {
  for (const client of clients.splice(0)) client.close()
  await Promise.all([source.empty(), target.empty()])
  for (const device of [source, target]) device.serving.device.holder.evict(true)
})
afterAll(() => Promise.all([source.stop(), target.stop()]))

/** As anyone makes one: no codec, no options of ours. */
function stockClient(address: string): KvServiceClient {
  const client = new KvServiceClient(address, credentials.createInsecure())
  clients.push(client)
  return client
}

function stockMetadata(): Metadata {
  const metadata = new Metadata()
  metadata.set(PROTOCOL_METADATA, '1')
  return metadata
}

/** Computes a prompt on the first device and takes its full blocks from there. */
async function store(prompt: number[]): Promise<KvChunk[]> {
  const lease = await source.reserve('store', prompt.length + 2)
  await readDecode(source.decode('store', lease, prompt, { maxTokens: 2 }))
  const { variant, model } = onlyModel(source.serving)
  const client = createRpcClient(KvServiceClient, source.serving.kv.address)
  clients.push(client)
  const call = callBidi(client, 'pull')
  const hashes = source.hashes(prompt).map(hashBytes)
  const receiverLease = { deviceId: 'store', incarnation: 1n, counter: 1n, ttlMs: 0 }
  const cached = { modelDigest: model.digest, variant, hashes }
  const open = {
    transferId: '',
    receiverLease,
    windowBytes: 4_096n,
    timing: 'PULL_TIMING_LAYERED',
    cached,
  } as const
  await call.send({ message: { $case: 'open', value: open } })
  const chunks: KvChunk[] = []
  for await (const { message } of call.messages) {
    if (message?.$case === 'end') call.end()
    if (message?.$case !== 'chunk') continue
    chunks.push(message.value)
    await call.send({ message: { $case: 'ack', value: { sequence: message.value.sequence } } })
  }
  return chunks
}

async function reserve(prompt: number[], prefix: readonly string[] = []): Promise<Lease> {
  const { lease } = await callUnary(target.kv, 'reserve', {
    ...target.identity(`push-${prompt.length}`),
    tokens: Math.floor(prompt.length / 16) * 16,
    purpose: LeasePurpose.ATTEND,
    prefix: { hashes: prefix.map(hashBytes) },
  })
  if (lease === undefined) throw new Error('Reserve gave no lease')
  return lease
}

function openOf(prompt: number[], lease: Lease): PushOpen {
  const { variant, model } = onlyModel(target.serving)
  const hashes = target
    .hashes(prompt)
    .slice(0, Math.floor(prompt.length / 16))
    .map(hashBytes)
  return { lease, modelDigest: model.digest, variant, hashes }
}

/** Sends all messages, and ends unless told otherwise. */
function push(messages: PushRequest['message'][], leaveOpen = false): Promise<PushResponse> {
  return new Promise((resolve, reject) => {
    const call = stockClient(target.serving.kv.address).push(stockMetadata(), (error, response) => {
      if (error === null) resolve(response)
      else reject(fromServiceError(error, 'fpga-0'))
    })
    call.on('error', (_error: ServiceError) => {})
    for (const message of messages) call.write({ message })
    if (!leaveOpen) call.end()
  })
}

const opened = (value: PushOpen): PushRequest['message'] => ({ $case: 'open', value })
const chunked = (chunks: readonly KvChunk[]): PushRequest['message'][] =>
  chunks.map((value) => ({ $case: 'chunk', value }))

async function decodeOnTarget(prompt: number[]) {
  const lease = await target.reserve('again', prompt.length + 8, 1, target.hashes(prompt))
  return readDecode(target.decode('again', lease, prompt, { maxTokens: 8 }))
}

describe('blocks that a stock client pushes', () => {
  it('are kept: a later request has the prefix cached, and its text', async () => {
    const prompt = promptOf(200)
    const chunks = await store(prompt)
    const lease = await reserve(prompt)
    const response = await push([opened(openOf(prompt, lease)), ...chunked(chunks)])
    // 12 blocks of 256 bytes in each of 3 layers.
    expect(response).toEqual({ blocks: 12, bytes: BigInt(12 * 3 * 256) })
    await target.empty()
    const { tokens, started } = await decodeOnTarget(prompt)
    expect(started?.reuse?.localTokens).toBe(192)
    expect(tokens).toEqual(expectedTokens(prompt, 8))
  })

  it('that are here already are not written to, sent or not', async () => {
    const prompt = promptOf(100)
    const chunks = await store(prompt)
    await decodeOnTarget(prompt.slice(0, 50))
    await target.empty()
    const prefix = target.hashes(prompt).slice(0, 3)
    const response = await push([opened(openOf(prompt, await reserve(prompt, prefix))), ...chunked(chunks)])
    expect(response.blocks).toBe(3)
    await target.empty()
    expect((await decodeOnTarget(prompt)).tokens).toEqual(expectedTokens(prompt, 8))

    // The same again, of which all is here: nothing need be sent.
    const all = target.hashes(prompt)
    expect(await push([opened(openOf(prompt, await reserve(prompt, all)))])).toEqual({ blocks: 0, bytes: 0n })
  })
})

describe('a push that is refused keeps nothing and frees its memory', () => {
  const prompt = promptOf(100)

  const nothingKept = async () => {
    await target.empty()
    const answer = onlyModel(target.serving).runner.apply({ type: 'evict', drop: true })
    expect(answer).toEqual({ type: 'evicted', blocks: 0 })
  }

  it('where a checksum is wrong', async () => {
    const [first, ...rest] = await store(prompt)
    if (first === undefined) throw new Error('no chunk')
    const damaged = { ...first, checksum: first.checksum ^ 1n }
    const attempt = push([opened(openOf(prompt, await reserve(prompt))), ...chunked([damaged, ...rest])])
    await expect(attempt).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining('checksum'),
    })
    await nothingKept()
  })

  it.each([
    ['blocks are missing', (chunks: KvChunk[]) => chunks.slice(0, -1), 'blocks are missing'],
    ['a chunk comes twice', ([first, ...rest]: KvChunk[]) => [first, first, ...rest], 'came instead of'],
    [
      'there are more blocks than hashes',
      (chunks: KvChunk[]) => [
        ...chunks,
        {
          sequence: BigInt(chunks.length + 1),
          segments: [{ layer: 0, firstBlock: 6, blockCount: 1 }],
          data: Buffer.alloc(256),
          checksum: checksumOf(Buffer.alloc(256)),
        },
      ],
      'out of place',
    ],
  ])('where %s', async (_what, change, sentence) => {
    const chunks = change(await store(prompt)).filter((chunk) => chunk !== undefined)
    const attempt = push([opened(openOf(prompt, await reserve(prompt))), ...chunked(chunks)])
    await expect(attempt).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining(sentence),
    })
    await nothingKept()
  })

  it('where the lease is another one, is too small, or has ended', async () => {
    const lease = await reserve(prompt)
    const foreign = { ...lease, deviceId: 'fpga-9' }
    await expect(push([opened(openOf(prompt, foreign))])).rejects.toMatchObject({ code: 'lease_expired' })
    const longer = promptOf(200)
    await expect(push([opened(openOf(longer, lease))])).rejects.toMatchObject({
      code: 'invalid_input',
      message: expect.stringContaining('room for fewer blocks'),
    })
    const decoding = await target.reserve('decoding', 100)
    await expect(push([opened(openOf(prompt, decoding))])).rejects.toMatchObject({ code: 'invalid_input' })
    await callUnary(target.kv, 'release', { lease: decoding })
    await callUnary(target.kv, 'release', { lease })
    await expect(push([opened(openOf(prompt, lease))])).rejects.toMatchObject({ code: 'lease_expired' })
    await nothingKept()
  })

  it('where model, variant or hashes are not what they should be', async () => {
    const lease = await reserve(prompt)
    const open = openOf(prompt, lease)
    const variant = open.variant && { ...open.variant, dtype: 'PRECISION_INT8' as const }
    const wrong: [PushOpen, string][] = [
      [{ ...open, modelDigest: 'another' }, 'not_found'],
      [{ ...open, variant }, 'unsupported'],
      [{ ...open, hashes: [] }, 'invalid_input'],
      [{ ...open, hashes: [Buffer.alloc(3)] }, 'invalid_input'],
    ]
    for (const [value, code] of wrong) await expect(push([opened(value)])).rejects.toMatchObject({ code })
    await expect(push(chunked(await store(prompt)))).rejects.toMatchObject({ code: 'invalid_input' })
    await callUnary(target.kv, 'release', { lease })
    await nothingKept()
  })

  it('where the stream stalls', async () => {
    const [first] = await store(prompt)
    if (first === undefined) throw new Error('no chunk')
    const attempt = push([opened(openOf(prompt, await reserve(prompt))), ...chunked([first])], true)
    await expect(attempt).rejects.toMatchObject({ code: 'deadline' })
    await nothingKept()
  })

  it('where the sender cancels', async () => {
    const [first] = await store(prompt)
    if (first === undefined) throw new Error('no chunk')
    const ended = deferred<unknown>()
    const call = stockClient(target.serving.kv.address).push(stockMetadata(), (error) => ended.resolve(error))
    const lease = await reserve(prompt)
    for (const message of [opened(openOf(prompt, lease)), ...chunked([first])]) call.write({ message })
    await expect.poll(() => onlyModel(target.serving).load().sequences).toBe(1)
    call.cancel()
    expect(await ended.promise).toMatchObject({ code: 1 })
    await nothingKept()
  })
})

it('a device that attends for nobody takes no pushes', async () => {
  const call = new Promise((_resolve, reject) => {
    stockClient(source.serving.kv.address)
      .push(stockMetadata(), (error) => reject(error === null ? undefined : fromServiceError(error, 'gpu-0')))
      .end()
  })
  await expect(call).rejects.toMatchObject({ code: 'unsupported' })
})
