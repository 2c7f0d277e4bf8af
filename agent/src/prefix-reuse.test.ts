/** Cached blocks over real gRPC: found here, fetched from another device, pulled only where missing, never shared wrongly. */
import { ReuseMode } from '@kvasir/proto/kvasir/inference/v1/inference'
import { KvServiceService, PullContent, type PullResponse, PullTiming } from '@kvasir/proto/kvasir/kv/v1/kv'
import { type KvasirError, NotFoundError } from '@kvasir/runtime/errors'
import { callBidi } from '@kvasir/runtime/rpc-client'
import { bidi, startRpcServer } from '@kvasir/runtime/rpc-server'
import { afterEach, describe, expect, it } from 'vitest'
import { bulkClient } from './endpoint-clients.js'
import { hashBytes } from './kv-index.js'
import { kvTransferService } from './kv-service.js'
import { expectedTokens } from './testing/fake-driver.js'
import {
  onlyModel,
  promptOf,
  type ReuseOptions,
  readDecode,
  readPrefill,
  TestDevice,
  type TestDeviceOptions,
} from './testing/test-devices.js'

const started: TestDevice[] = []

async function start(
  deviceId: string,
  options: Omit<TestDeviceOptions, 'deviceId'> = {},
): Promise<TestDevice> {
  const device = await TestDevice.start({ deviceId, ...options })
  started.push(device)
  return device
}

afterEach(async () => {
  await Promise.all(started.splice(0).map((device) => device.stop()))
})

const MAX_TOKENS = 6

/** One device prefills and decodes; the lease shares what is cached unless told otherwise. */
async function alone(device: TestDevice, id: string, prompt: number[], options: ReuseOptions = {}) {
  const shares = options.reuse !== ReuseMode.NONE
  const hashes = shares ? device.hashes(prompt, options.salt) : undefined
  const lease = await device.reserve(id, prompt.length + MAX_TOKENS, 1, hashes)
  return readDecode(device.decode(id, lease, prompt, { maxTokens: MAX_TOKENS, ...options }))
}

/** One device prefills, another decodes. */
async function apart(
  prefiller: TestDevice,
  decoder: TestDevice,
  id: string,
  prompt: number[],
  { prefill, decode }: { prefill?: ReuseOptions; decode?: ReuseOptions } = {},
) {
  const lease = await decoder.reserve(id, prompt.length + MAX_TOKENS, 1, decoder.hashes(prompt))
  const [events, story] = await Promise.all([
    readPrefill(prefiller.prefill(id, prompt, prefill)),
    readDecode(
      decoder.decode(id, lease, prompt, { maxTokens: MAX_TOKENS, from: prefiller.source, ...decode }),
    ),
  ])
  const finished = events.find((event) => event?.$case === 'finished')
  const sent = events.find((event) => event?.$case === 'kvSent')
  return {
    story,
    reuse: finished?.$case === 'finished' ? finished.value.reuse : undefined,
    sentBytes: sent?.$case === 'kvSent' ? sent.value.bytes : undefined,
  }
}

function prefixAt(source: TestDevice, tokens: number) {
  const { id: deviceId, endpoint } = source.source
  return { tokens, deviceId, endpoint, tier: 'hbm' }
}

describe('a prompt whose beginning is cached', () => {
  it('is prefilled from where the cache ends, and gives the same text', async () => {
    const rows: number[] = []
    const beforeLayer = async (layer: number, count: number) => {
      if (layer === 0) rows.push(count)
    }
    const device = await start('gpu-0', { fake: { beforeLayer } })
    const prompt = promptOf(100)
    const first = await alone(device, 'first', prompt)
    expect(first.tokens).toEqual(expectedTokens(prompt, MAX_TOKENS))
    rows.length = 0
    const again = await alone(device, 'again', prompt)
    expect(again.tokens).toEqual(first.tokens)
    expect(again.started?.reuse).toMatchObject({ localTokens: 96, fetchedTokens: 0, problem: '' })
    expect(rows[0]).toBe(4)
    const longer = [...prompt.slice(0, 50), ...promptOf(30, 7)]
    const other = await alone(device, 'longer', longer)
    expect(other.tokens).toEqual(expectedTokens(longer, MAX_TOKENS))
    expect(other.started?.reuse?.localTokens).toBe(48)
    await device.empty()
  })

  it('computes at least one token where all of it is cached', async () => {
    const device = await start('gpu-0')
    const prompt = promptOf(64)
    await alone(device, 'first', prompt)
    const again = await alone(device, 'again', prompt)
    expect(again.tokens).toEqual(expectedTokens(prompt, MAX_TOKENS))
    expect(again.started?.reuse?.localTokens).toBeLessThan(64)
    expect(again.started?.reuse?.localTokens).toBeGreaterThanOrEqual(48)
  })

  it('finds what was generated, as a chat goes on', async () => {
    const device = await start('gpu-0')
    const prompt = promptOf(60)
    const hashes = device.hashes(prompt)
    const lease = await device.reserve('first', 120, 1, hashes)
    const { tokens } = await readDecode(device.decode('first', lease, prompt, { maxTokens: 40 }))
    const next = [...prompt, ...tokens, 5, 6, 7]
    const story = await alone(device, 'next', next)
    expect(story.tokens).toEqual(expectedTokens(next, MAX_TOKENS))
    expect(story.started?.reuse?.localTokens).toBe(96)
  })

  it('is not reused, nor left behind, where the request says so', async () => {
    const device = await start('gpu-0')
    const prompt = promptOf(100)
    await alone(device, 'none', prompt, { reuse: ReuseMode.NONE })
    expect(device.serving.device.index.snapshot().parts.flatMap(({ hashes }) => hashes)).toEqual([])
    await alone(device, 'full', prompt)
    const none = await alone(device, 'again', prompt, { reuse: ReuseMode.NONE })
    expect(none.tokens).toEqual(expectedTokens(prompt, MAX_TOKENS))
    expect(none.started?.reuse).toMatchObject({ localTokens: 0, fetchedTokens: 0 })
  })

  it('is not shared between tenants', async () => {
    const device = await start('gpu-0')
    const prompt = promptOf(100)
    await alone(device, 'mine', prompt, { salt: 'tenant-a' })
    const theirs = await alone(device, 'theirs', prompt, { salt: 'tenant-b' })
    expect(theirs.started?.reuse?.localTokens).toBe(0)
    expect(
      (await alone(device, 'mine-again', prompt, { salt: 'tenant-a' })).started?.reuse?.localTokens,
    ).toBe(96)
  })

  it('is refused under a lease that was reserved for another prompt', async () => {
    const device = await start('gpu-0')
    const lease = await device.reserve('mixed', 80, 1, device.hashes(promptOf(64, 2)))
    const failure = await readDecode(device.decode('mixed', lease, promptOf(64), { maxTokens: 4 })).catch(
      (e) => e,
    )
    expect(failure).toMatchObject({ code: 'invalid_input', ids: { reason: 'lease-mismatch' } })
  })
})

describe('two devices', () => {
  it('send only what the decoding one lacks, down to nothing', async () => {
    const gpu = await start('gpu-0')
    const fpga = await start('fpga-0')
    const prompt = promptOf(100)
    const first = await apart(gpu, fpga, 'first', prompt)
    expect(first.sentBytes).toBe(7n * 768n)
    const again = await apart(gpu, fpga, 'again', prompt)
    expect(again.story.tokens).toEqual(first.story.tokens)
    expect(again.reuse).toMatchObject({ localTokens: 96 })
    // The partial block at the end is nobody's to share.
    expect(again.sentBytes).toBe(768n)
    expect(again.story.started?.reuse?.localTokens).toBe(96)
    const whole = promptOf(64, 3)
    await apart(gpu, fpga, 'whole', whole)
    const nothing = await apart(gpu, fpga, 'nothing', whole)
    expect(nothing.sentBytes).toBe(0n)
    expect(nothing.story.tokens).toEqual(expectedTokens(whole, MAX_TOKENS).slice(1))
    await Promise.all([gpu.empty(), fpga.empty()])
  })

  it('fetch from each other, and compute the rest', async () => {
    const gpu = await start('gpu-0')
    const fpga = await start('fpga-0')
    const prompt = promptOf(200)
    await alone(fpga, 'here', prompt)
    await alone(gpu, 'part', prompt.slice(0, 64))
    const fetched = await alone(gpu, 'there', prompt, { prefix: prefixAt(fpga, 176) })
    expect(fetched.tokens).toEqual(expectedTokens(prompt, MAX_TOKENS))
    expect(fetched.started?.reuse).toMatchObject({
      localTokens: 64,
      fetchedTokens: 112,
      sourceDeviceId: 'fpga-0',
      fetchedBytes: 7n * 768n,
      problem: '',
    })
    const third = await start('gpu-1')
    const { story, reuse } = await apart(third, fpga, 'prefill', prompt, {
      prefill: { prefix: prefixAt(fpga, 192) },
    })
    expect(reuse).toMatchObject({ localTokens: 0, fetchedTokens: 192 })
    expect(story.tokens).toEqual(expectedTokens(prompt, MAX_TOKENS).slice(1))
  })

  it('send bounds beside keys and values where pages are chosen by them', async () => {
    const gpu = await start('gpu-0')
    const prompt = promptOf(40)
    const prefill = readPrefill(gpu.prefill('bounds', prompt))
    const pull = async (content: PullContent) => {
      const call = callBidi(bulkClient(gpu.serving.kv.address), 'pull')
      const open = {
        transferId: 'transfer-bounds',
        receiverLease: { deviceId: 'fpga-9', incarnation: 1n, counter: 1n, ttlMs: 0 },
        windowBytes: 1n << 20n,
        timing: PullTiming.AFTER_PREFILL,
        content,
      }
      await call.send({ message: { $case: 'open', value: open } })
      const bytes = { kv: 0, bounds: 0 }
      for await (const { message } of call.messages) {
        if (message?.$case !== 'chunk') continue
        for (const { blockCount, bounds } of message.value.segments) {
          bytes[bounds === true ? 'bounds' : 'kv'] += blockCount
        }
        await call.send({ message: { $case: 'ack', value: { sequence: message.value.sequence } } })
      }
      return bytes
    }
    // Three blocks and two full pages in each of three layers.
    expect(await pull(PullContent.KV_AND_BOUNDS)).toEqual({ kv: 9, bounds: 6 })
    await prefill
  })
})

describe('a source of cached blocks', () => {
  const failing = async (
    pull: (reply: (message: PullResponse) => Promise<void>) => Promise<void>,
    limits: TestDeviceOptions['limits'] = {},
  ) => {
    const device = await start('gpu-0', { limits })
    const implementation = {
      ...kvTransferService(device.serving.device),
      pull: bidi(
        async (incoming: AsyncIterable<unknown>, _call, reply: (message: PullResponse) => Promise<void>) => {
          for await (const _ of incoming) await pull(reply)
        },
      ),
    }
    const services = [{ definition: KvServiceService, implementation }]
    const server = await startRpcServer({ host: '127.0.0.1', port: 0, services })
    const prompt = promptOf(100)
    const prefix = { tokens: 96, deviceId: 'far-0', endpoint: server.address, tier: 'hbm' }
    const story = await alone(device, 'fails', prompt, { prefix })
    expect(story.tokens).toEqual(expectedTokens(prompt, MAX_TOKENS))
    await server.close()
    await device.empty()
    return story.started?.reuse
  }

  it('that refuses, is silent or sends another model costs a recomputation, and is reported', async () => {
    const refuse = async (): Promise<never> => {
      throw new NotFoundError('Device far-0 no longer has the blocks; compute them instead.')
    }
    expect(await failing(refuse)).toMatchObject({
      fetchedTokens: 0,
      problem: expect.stringContaining('no longer'),
    })
    expect(await failing(() => new Promise(() => {}), { fetchSilenceMs: 50 })).toMatchObject({
      problem: expect.stringContaining('sent no KV for too long'),
    })
    const manifest = { modelDigest: 'another', variant: undefined, tokens: 96, blockTokens: 16, blocks: 6 }
    expect(
      await failing((reply) => reply({ message: { $case: 'manifest', value: manifest } })),
    ).toMatchObject({ problem: expect.stringContaining('another model') })
  })

  it('that sends for ever so slowly is given up at the deadline', async () => {
    const slow = await start('fpga-0', { linkBytesPerSecond: 2_000 })
    const prompt = promptOf(100)
    await alone(slow, 'here', prompt)
    const device = await start('gpu-0', { limits: { fetchMs: 100 } })
    const story = await alone(device, 'slow', prompt, { prefix: prefixAt(slow, 96) })
    expect(story.tokens).toEqual(expectedTokens(prompt, MAX_TOKENS))
    expect(story.started?.reuse).toMatchObject({
      fetchedTokens: 0,
      problem: expect.stringContaining('100 ms'),
    })
    await slow.empty()
  })

  it('gives what it still has of the run', async () => {
    const far = await start('fpga-0')
    const prompt = promptOf(200)
    await alone(far, 'half', prompt.slice(0, 112))
    const device = await start('gpu-0')
    const story = await alone(device, 'rest', prompt, { prefix: prefixAt(far, 192) })
    expect(story.tokens).toEqual(expectedTokens(prompt, MAX_TOKENS))
    expect(story.started?.reuse).toMatchObject({
      fetchedTokens: 112,
      problem: expect.stringContaining('only 112'),
    })
  })

  it('refuses what it cannot have', async () => {
    const device = await start('gpu-0')
    const prompt = promptOf(64)
    await alone(device, 'here', prompt)
    const { model, variant } = onlyModel(device.serving)
    const pull = async (cached: object, content?: PullContent): Promise<KvasirError> => {
      const client = bulkClient(device.serving.kv.address)
      const call = callBidi(client, 'pull')
      const good = {
        modelDigest: model.digest,
        variant,
        hashes: device.hashes(prompt).map(hashBytes),
      }
      const receiverLease = { deviceId: 'fpga-9', incarnation: 1n, counter: 1n, ttlMs: 0 }
      const open = { transferId: '', receiverLease, windowBytes: 1n << 20n, timing: PullTiming.LAYERED }
      await call.send({
        message: { $case: 'open', value: { ...open, content, cached: { ...good, ...cached } } },
      })
      const outcome = await call.messages.next().catch((error: unknown) => error)
      call.cancel()
      client.close()
      return outcome as KvasirError
    }
    expect(await pull({ hashes: [] })).toMatchObject({ code: 'invalid_input' })
    expect(await pull({ hashes: [Buffer.alloc(3)] })).toMatchObject({ code: 'invalid_input' })
    expect(await pull({ hashes: [Buffer.alloc(16)] })).toMatchObject({ code: 'not_found' })
    expect(await pull({ modelDigest: 'ff' })).toMatchObject({ code: 'unsupported' })
    expect(await pull({ variant: { numerics: 'PROFILE_PAPER', dtype: 'PRECISION_INT8' } })).toMatchObject({
      code: 'unsupported',
    })
    expect(await pull({}, PullContent.BOUNDS)).toMatchObject({ code: 'invalid_input' })
    expect(await pull({})).toMatchObject({
      done: false,
      value: { message: { value: { blocks: 4, tokens: 64 } } },
    })
    await device.empty()
    await expect.poll(() => device.serving.device.holder.evict(true)).toBe(4)
  })
})
