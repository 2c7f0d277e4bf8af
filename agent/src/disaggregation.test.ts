/** Two devices over real gRPC: one prefills, the other pulls its KV and decodes. */
import {
  KvServiceClient,
  KvServiceService,
  type PullResponse,
  PullTiming,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { CorruptDataError, OverloadedError, UnreachableError } from '@kvasir/runtime/errors'
import { callBidi, createRpcClient } from '@kvasir/runtime/rpc-client'
import { bidi, startRpcServer } from '@kvasir/runtime/rpc-server'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { checksumOf } from './checksum.js'
import { kvTransferService } from './kv-service.js'
import { shapeOf } from './kv-shape.js'
import { OutgoingTransfer } from './outgoing-transfer.js'
import { expectedTokens } from './testing/fake-driver.js'
import { onlyModel, promptOf, readDecode, readPrefill, TestDevice } from './testing/test-devices.js'
import { TransferRegistry } from './transfer-registry.js'

let gpu: TestDevice
let fpga: TestDevice

beforeAll(async () => {
  gpu = await TestDevice.start({ deviceId: 'gpu-0' })
  fpga = await TestDevice.start({ deviceId: 'fpga-0' })
})
afterEach(async () => {
  await Promise.all([gpu.empty(), fpga.empty()])
})
afterAll(() => Promise.all([gpu.stop(), fpga.stop()]))

async function serve(requestId: string, prompt: number[], maxTokens: number, timing?: PullTiming) {
  const lease = await fpga.reserve(requestId, prompt.length + maxTokens)
  const prefill = readPrefill(gpu.prefill(requestId, prompt))
  const options = { maxTokens, from: gpu.source, ...(timing === undefined ? {} : { timing }) }
  const decode = readDecode(fpga.decode(requestId, lease, prompt, options))
  return { prefill: await prefill, decode: await decode }
}

describe('prefill on one device, decode on another', () => {
  it('gives the text of one device', async () => {
    const prompt = promptOf(700)
    const { prefill, decode } = await serve('text', prompt, 40)
    const expected = expectedTokens(prompt, 40)
    expect(prefill.map((event) => event?.$case)).toEqual(['admitted', 'finished', 'kvSent'])
    const [, finished, sent] = prefill
    expect(finished).toMatchObject({ value: { token: { id: expected[0], index: 0 }, stopped: false } })
    expect(decode.tokens).toEqual(expected.slice(1))
    expect(decode.indices).toEqual(Array.from({ length: 39 }, (_, i) => i + 1))
    expect(decode.finished).toMatchObject({ reason: 'FINISH_REASON_LENGTH', steps: 39, batchMax: 1 })
    // 44 blocks of 256 bytes in each of 3 layers.
    expect(sent).toMatchObject({ value: { bytes: 33_792n } })
    expect(decode.started?.kvBytes).toBe(33_792n)
    expect(decode.started?.kvChunks).toBeGreaterThan(0n)
  })

  it('tells of the prompt what it cost the device, which is no more than it took', async () => {
    const prompt = promptOf(400, 3)
    const others = [4, 5, 6].map((seed) => serve(`beside-${seed}`, promptOf(300, seed), 1))
    const { prefill } = await serve('cost', prompt, 2)
    await Promise.all(others)
    const [, finished] = prefill
    if (finished?.$case !== 'finished') throw new Error('The prompt was not computed.')
    const { computeUs, computeShareUs = 0n } = finished.value
    expect(computeShareUs).toBeGreaterThan(0n)
    // Both are rounded.
    expect(computeShareUs).toBeLessThanOrEqual(computeUs + 10n)
    const lease = await fpga.reserve('here', 402)
    const { started } = await readDecode(fpga.decode('here', lease, prompt, { maxTokens: 2 }))
    expect(started?.prefillShareUs).toBeGreaterThan(0n)
    expect(started?.prefillShareUs).toBeLessThanOrEqual((started?.prefillUs ?? 0n) + 10n)
  })

  it('gives the same text when the KV is sent after prefill', async () => {
    const prompt = promptOf(300, 2)
    const { decode } = await serve('after', prompt, 10, PullTiming.AFTER_PREFILL)
    expect(decode.tokens).toEqual(expectedTokens(prompt, 10).slice(1))
  })

  it('serves many at once', async () => {
    const prompts = Array.from({ length: 8 }, (_, i) => promptOf(20 + i * 37, i))
    const stories = await Promise.all(prompts.map((prompt, i) => serve(`many-${i}`, prompt, 20)))
    stories.forEach(({ decode }, i) => {
      expect(decode.tokens).toEqual(expectedTokens(prompts[i] ?? [], 20).slice(1))
    })
    expect(Math.max(...stories.map(({ decode }) => decode.finished?.batchMax ?? 0))).toBeGreaterThan(1)
  })

  it('ends at a first token that is a stop token, and at the first of one', async () => {
    const prompt = promptOf(33, 3)
    const [first = 0] = expectedTokens(prompt, 1)
    const sampling = {
      temperature: 0,
      topP: 1,
      topK: 0,
      seed: 0n,
      stopTokens: [first],
      topLogprobs: 0,
      logprobs: false,
    }
    const lease = await fpga.reserve('stops', 60)
    const prefill = readPrefill(gpu.prefill('stops', prompt, { sampling }))
    const decode = await readDecode(
      fpga.decode('stops', lease, prompt, { maxTokens: 9, from: gpu.source, sampling }),
    )
    expect(decode).toMatchObject({ tokens: [], finished: { reason: 'FINISH_REASON_STOP' } })
    expect((await prefill)[1]).toMatchObject({ value: { stopped: true, token: undefined } })
    const single = await serve('single', prompt, 1)
    expect(single.decode).toMatchObject({ tokens: [], finished: { reason: 'FINISH_REASON_LENGTH' } })
  })

  it('lets the Pull come before the Prefill', async () => {
    const prompt = promptOf(40, 4)
    const lease = await fpga.reserve('early', 60)
    const decode = readDecode(fpga.decode('early', lease, prompt, { maxTokens: 5, from: gpu.source }))
    await new Promise((resolve) => setTimeout(resolve, 30))
    await readPrefill(gpu.prefill('early', prompt))
    expect((await decode).tokens).toEqual(expectedTokens(prompt, 5).slice(1))
  })
})

describe('a damaged transfer', () => {
  it('fails the transfer, frees the memory and names the source', async () => {
    const device = fpga.serving.device
    const good = kvTransferService(device)
    const send = async (reply: (message: PullResponse) => Promise<void>) => {
      const { model, variant } = onlyModel(fpga.serving)
      const manifest = { modelDigest: model.digest, variant, tokens: 16, blockTokens: 16 }
      await reply({ message: { $case: 'manifest', value: manifest } })
      const data = Buffer.alloc(model.blockLayerBytes, 1)
      const segments = [{ layer: 0, firstBlock: 0, blockCount: 1 }]
      const value = { sequence: 1n, segments, data, checksum: checksumOf(data) ^ 1n }
      await reply({ message: { $case: 'chunk', value } })
    }
    const server = await startRpcServer({
      host: '127.0.0.1',
      port: 0,
      services: [
        {
          definition: KvServiceService,
          implementation: {
            ...good,
            pull: bidi(
              async (
                incoming: AsyncIterable<unknown>,
                _call,
                reply: (message: PullResponse) => Promise<void>,
              ) => {
                for await (const _ of incoming) await send(reply)
              },
            ),
          },
        },
      ],
    })
    const lease = await fpga.reserve('corrupt', 32)
    const from = { id: 'gpu-bad', endpoint: server.address }
    const failure = await readDecode(
      fpga.decode('corrupt', lease, promptOf(16), { maxTokens: 4, from }),
    ).catch((e: unknown) => e)
    expect(failure).toBeInstanceOf(CorruptDataError)
    expect(failure).toMatchObject({
      ids: { deviceId: 'gpu-bad' },
      message: expect.stringContaining('checksum'),
    })
    await fpga.empty()
    await server.close()
    const prompt = promptOf(30, 9)
    expect((await serve('next', prompt, 4)).decode.tokens).toEqual(expectedTokens(prompt, 4).slice(1))
  })

  it('blames a source that cannot be reached, or dies', async () => {
    const source = await TestDevice.start({ deviceId: 'gpu-dies', linkBytesPerSecond: 1_000 })
    const lease = await fpga.reserve('dies', 200)
    const prompt = promptOf(150)
    const prefill = readPrefill(source.prefill('dies', prompt)).catch(() => undefined)
    const stream = fpga.decode('dies', lease, prompt, { maxTokens: 4, from: source.source })
    const failing = readDecode(stream).catch((error: unknown) => error)
    await new Promise((resolve) => setTimeout(resolve, 100))
    await source.stop()
    const failure = await failing
    expect(failure).toBeInstanceOf(UnreachableError)
    expect(failure).toMatchObject({ ids: { deviceId: 'gpu-dies' } })
    await prefill
  })

  it('fails the prefill when its receiver goes, and names it', async () => {
    const abort = new AbortController()
    const source = await TestDevice.start({ deviceId: 'gpu-slow', linkBytesPerSecond: 1_000 })
    const lease = await fpga.reserve('gone', 200)
    const prompt = promptOf(150)
    const prefill = readPrefill(source.prefill('gone', prompt)).catch((error: unknown) => error)
    const stream = fpga.decode('gone', lease, prompt, {
      maxTokens: 4,
      from: source.source,
      signal: abort.signal,
    })
    const decode = readDecode(stream).catch((error: unknown) => error)
    await new Promise((resolve) => setTimeout(resolve, 100))
    abort.abort()
    expect(await prefill).toMatchObject({ code: 'unreachable', ids: { deviceId: 'fpga-0' } })
    expect(await decode).toMatchObject({ code: 'cancelled' })
    await source.empty()
    await source.stop()
  })
})

describe('cancels at any moment', () => {
  it('leave nothing behind, and others their text', async () => {
    const stories = Array.from({ length: 24 }, async (_, i) => {
      const prompt = promptOf(30 + ((i * 53) % 400), i)
      const abort = new AbortController()
      const { signal } = abort
      const cancelled = i % 3 !== 0
      if (cancelled) setTimeout(() => abort.abort(), (i * 7) % 90)
      for (;;) {
        try {
          const lease = await fpga.reserve(`chaos-${i}`, prompt.length + 20)
          const prefill = readPrefill(gpu.prefill(`chaos-${i}`, prompt, { signal })).catch(() => [])
          const decode = readDecode(
            fpga.decode(`chaos-${i}`, lease, prompt, { maxTokens: 20, from: gpu.source, signal }),
          )
          const { tokens } = await decode
          expect(tokens).toEqual(expectedTokens(prompt, 20).slice(1))
          await prefill
          return
        } catch (error) {
          if (error instanceof OverloadedError) await new Promise((resolve) => setTimeout(resolve, 5))
          else if (!cancelled) throw error
          if (signal.aborted) return
        }
      }
    })
    await Promise.all(stories)
  })
})

describe('the window of a transfer', () => {
  it('is never exceeded, however slow the receiver acknowledges', async () => {
    const prompt = promptOf(320)
    const windowBytes = 4 * 256
    const prefill = readPrefill(gpu.prefill('window', prompt))
    const client = createRpcClient(KvServiceClient, gpu.serving.kv.address)
    const call = callBidi(client, 'pull')
    const receiverLease = { deviceId: 'fpga-9', incarnation: 1n, counter: 1n, ttlMs: 0 }
    const open = {
      transferId: 'transfer-window',
      receiverLease,
      windowBytes: BigInt(windowBytes),
      timing: PullTiming.LAYERED,
    }
    await call.send({ message: { $case: 'open', value: open } })
    let unacknowledged = 0
    let most = 0
    const pending: { sequence: bigint; bytes: number }[] = []
    const acknowledgeOne = async () => {
      const oldest = pending.shift()
      if (oldest === undefined) return
      unacknowledged -= oldest.bytes
      await call.send({ message: { $case: 'ack', value: { sequence: oldest.sequence } } })
    }
    let reading = true
    const slow = (async () => {
      while (reading || pending.length > 0) {
        await new Promise((resolve) => setTimeout(resolve, 2))
        await acknowledgeOne()
      }
    })()
    for await (const { message } of call.messages) {
      if (message?.$case === 'end') {
        reading = false
        void slow.then(() => call.end())
      }
      if (message?.$case !== 'chunk') continue
      unacknowledged += message.value.data.byteLength
      most = Math.max(most, unacknowledged)
      pending.push({ sequence: message.value.sequence, bytes: message.value.data.byteLength })
    }
    expect(most).toBeLessThanOrEqual(windowBytes)
    expect(most).toBeGreaterThan(0)
    expect((await prefill).at(-1)).toMatchObject({ $case: 'kvSent', value: { bytes: BigInt(3 * 20 * 256) } })
    client.close()
  })
})

describe('a receiver that is not one of ours', () => {
  const pull = async (device: TestDevice, transferId: string, mergeLayers?: number) => {
    const client = createRpcClient(KvServiceClient, device.serving.kv.address)
    const call = callBidi(client, 'pull')
    const receiverLease = { deviceId: 'fpga-9', incarnation: 1n, counter: 1n, ttlMs: 0 }
    const windowBytes = BigInt(1 << 20)
    await call.send({
      message: {
        $case: 'open',
        value: { transferId, receiverLease, windowBytes, timing: PullTiming.LAYERED, mergeLayers },
      },
    })
    return { call, client }
  }

  it('gets nothing where another one pulls already, even at the same moment', async () => {
    const registry = new TransferRegistry('gpu-0', 1_000)
    const transfer = new OutgoingTransfer({
      shape: shapeOf(onlyModel(gpu.serving)),
      transferId: 'twice',
      tokens: 5,
      pacer: gpu.serving.device.pacer,
      mergeLayers: 1,
      clock: gpu.serving.device.clock,
      acknowledgeMs: 1_000,
      opened() {},
      pin: raise,
      unpin() {},
    })
    registry.offer(transfer)
    const { signal } = new AbortController()
    const claims = await Promise.allSettled([
      registry.claim('twice', signal),
      registry.claim('twice', signal),
    ])
    expect(claims.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
  })

  it('gets as many layers in a message as it asks for, and only factors that there are', async () => {
    const chunksOf = async (mergeLayers: number) => {
      const prefill = readPrefill(gpu.prefill(`merge-${mergeLayers}`, promptOf(64)))
      const { call, client } = await pull(gpu, `transfer-merge-${mergeLayers}`, mergeLayers)
      const layers: number[][] = []
      try {
        for await (const { message } of call.messages) {
          if (message?.$case === 'manifest') expect(message.value.mergeLayers).toBe(mergeLayers)
          if (message?.$case === 'end') call.end()
          if (message?.$case !== 'chunk') continue
          layers.push(message.value.segments.map(({ layer }) => layer))
          await call.send({ message: { $case: 'ack', value: { sequence: message.value.sequence } } })
        }
        return layers
      } finally {
        await prefill.catch(() => {})
        client.close()
      }
    }
    // Three layers, in groups of two.
    for (const layers of await chunksOf(2)) expect([[0, 1], [2], [0, 1, 2]]).toContainEqual(layers)
    await expect(chunksOf(3)).rejects.toMatchObject({
      code: 'invalid_input',
      message: expect.stringContaining('1, 2, 4 or 8'),
    })
  })

  it('loses the transfer when it does not acknowledge, and everything is freed', async () => {
    const source = await TestDevice.start({ deviceId: 'gpu-unheard', limits: { acknowledgeMs: 150 } })
    const prefill = readPrefill(source.prefill('unheard', promptOf(64))).catch((error: unknown) => error)
    const { call, client } = await pull(source, 'transfer-unheard')
    const read = (async () => {
      for await (const _ of call.messages);
    })().catch((error: unknown) => error)
    expect(await prefill).toMatchObject({ code: 'unreachable', ids: { deviceId: 'fpga-9' } })
    expect(await read).toMatchObject({ code: 'unreachable' })
    await source.empty()
    client.close()
    await source.stop()
  })
})

function raise(): never {
  throw new Error('The device has no model')
}
