/** KV blocks that stay, leave and come back, over real processes: always the text of an undisturbed run. */
import { shapeOf } from '@kvasir/agent/kv-shape'
import { cachedDigests } from '@kvasir/agent/testing/cached-bytes'
import { promptOf, readDecode, TestClient } from '@kvasir/agent/testing/test-devices'
import { createLocalGenerator, type LocalGenerator } from '@kvasir/engine/local-generator'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { fpga, gpu, host, skald, TestCluster, until, untilIdle } from './support/cluster.js'
import { streamCompletion } from './support/streams.js'

const maxTokens = 12
const testMs = 60_000
const keys = ['key-of-tenant-a', 'key-of-tenant-b'] as const
/** Slow enough that a fetch from the host can be caught under way. */
const hostBytesPerSecond = 2_000_000

let cluster: TestCluster
let local: LocalGenerator
const clients: TestClient[] = []

beforeAll(async () => {
  cluster = await TestCluster.start({
    agents: [gpu(), fpga(), host('host-0', ['--link-bytes-per-second', String(hostBytesPerSecond)])],
    coordinatorFlags: keys.flatMap((key) => ['--api-keys', key]),
    apiKey: keys[0],
  })
  local = await createLocalGenerator({ model: skald, threads: 1 })
}, 120_000)
afterEach(() => untilIdle(cluster))
afterAll(async () => {
  for (const client of clients) client.close()
  await local?.close()
  await cluster?.stop()
})

async function localTokens(prompt: readonly number[]): Promise<number[]> {
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0n, logprobs: false, topLogprobs: 0 }
  const tokens: number[] = []
  for await (const { id } of local.generate(prompt, { sampling, maxTokens, stopTokens: [] })) tokens.push(id)
  return tokens
}

/** A device as the coordinator talks to it. */
async function deviceOf(name: string): Promise<TestClient> {
  const { endpoints } =
    (await cluster.cluster()).devices.find(({ deviceId }) => deviceId === name) ?? raise(name)
  const client = new TestClient(name, endpoints.control, endpoints.kv, local.facts.digest)
  clients.push(client)
  return client
}

function raise(name: string): never {
  throw new Error(`The cluster has no device ${name}`)
}

/** Prefills and decodes on one device, with as much of the prompt as the source is said to have. */
async function generate(device: TestClient, id: string, prompt: number[], from?: TestClient) {
  const lease = await device.reserve(id, prompt.length + maxTokens, 1, device.hashes(prompt))
  const tokens = Math.floor((prompt.length - 1) / 16) * 16
  const prefix =
    from === undefined
      ? {}
      : { prefix: { tokens, deviceId: from.id, endpoint: from.source.endpoint, tier: 'dram' } }
  return readDecode(device.decode(id, lease, prompt, { maxTokens, ...prefix }))
}

async function evict(device: string, drop: boolean): Promise<void> {
  await cluster.json('/v1/kv/evict', { device, drop })
}

async function heldBy(device: string): Promise<number> {
  const report = (await cluster.json('/v1/kv')) as {
    devices: { deviceId: string; directoryBlocks: number }[]
  }
  return report.devices.find(({ deviceId }) => deviceId === device)?.directoryBlocks ?? 0
}

function shape() {
  const { layers } = local.facts
  const layerRange = { first: 0, count: layers }
  const variant = { numerics: 'PROFILE_EXACT', dtype: 'PRECISION_F32', layers: layerRange } as const
  return shapeOf({ model: local.facts, variant })
}

/** A prompt that the device has, and gave up to the host tier, which has it now. */
async function demoted(device: TestClient, id: string, prompt: number[]): Promise<string[]> {
  await evict(device.id, true)
  await evict('host-0', true)
  await generate(device, id, prompt)
  const hashes = device.hashes(prompt)
  const before = await cachedDigests(device.source.endpoint, shape(), hashes)
  expect(before).toHaveLength(hashes.length)
  // What has just been sent may still be lent for a moment, and stays then.
  await until('the device has given up its blocks', async () => {
    await evict(device.id, false)
    return (await heldBy(device.id)) === 0
  })
  await until('the host tier has the blocks', async () => (await heldBy('host-0')) >= hashes.length)
  return before
}

describe('a device and the host tier of its machine', () => {
  test(
    'exchange blocks without a changed byte, and the text stays',
    async () => {
      const [device, tier] = await Promise.all([deviceOf('gpu-0'), deviceOf('host-0')])
      const prompt = promptOf(200, 11)
      const before = await demoted(device, 'exchange-1', prompt)
      const hashes = device.hashes(prompt)
      expect(await cachedDigests(tier.source.endpoint, shape(), hashes)).toEqual(before)
      const back = await generate(device, 'exchange-2', prompt, tier)
      expect(back.started?.reuse).toMatchObject({ localTokens: 0, fetchedTokens: 192, problem: '' })
      expect(back.tokens).toEqual(await localTokens(prompt))
      expect(await cachedDigests(device.source.endpoint, shape(), hashes)).toEqual(before)
    },
    testMs,
  )

  test(
    'cost a recomputation where the directory was behind',
    async () => {
      const [device, tier] = await Promise.all([deviceOf('gpu-0'), deviceOf('host-0')])
      const prompt = promptOf(200, 12)
      await demoted(device, 'stale-1', prompt)
      await evict('host-0', true)
      const story = await generate(device, 'stale-2', prompt, tier)
      expect(story.started?.reuse).toMatchObject({
        fetchedTokens: 0,
        problem: expect.stringContaining('no longer has the blocks'),
      })
      expect(story.tokens).toEqual(await localTokens(prompt))
    },
    testMs,
  )

  test(
    'cost a recomputation where the host agent is killed in mid-fetch',
    async () => {
      const [device, tier] = await Promise.all([deviceOf('gpu-0'), deviceOf('host-0')])
      const prompt = promptOf(900, 13)
      await demoted(device, 'killed-1', prompt)
      const story = generate(device, 'killed-2', prompt, tier)
      await until('the host tier sends', async () => {
        const { devices } = await cluster.cluster()
        return devices.some(
          ({ deviceId, tiers }) => deviceId === 'host-0' && (tiers[0]?.leasedBytes ?? 0) > 0,
        )
      })
      await cluster.kill('host-0')
      const { started, tokens } = await story
      expect(started?.reuse).toMatchObject({ fetchedTokens: 0, problem: expect.stringContaining('host-0') })
      expect(tokens).toEqual(await localTokens(prompt))
      await cluster.startAgent('host-0')
      await cluster.untilDevicesReady(['host-0'])
    },
    testMs,
  )
})

describe('a cluster', () => {
  const prompt = 'The wolf told the king that the fox had gone by the old road. '.repeat(40)

  async function complete(apiKey: string, fields: Record<string, unknown> = {}) {
    const { text, requestId } = await streamCompletion(cluster, { prompt, maxTokens, apiKey, fields })
    return { text, report: await cluster.request(requestId) }
  }

  test(
    'prefills only the rest of a prompt that it has seen, with the text of --local',
    async () => {
      const textModel = await loadTextModel(skald)
      const decoder = textModel.decoder()
      const tokens = await localTokens(textModel.encode(prompt))
      const expected = tokens.map((token) => decoder.push(token)).join('') + decoder.flush()
      const first = await complete(keys[0])
      const again = await complete(keys[0])
      expect([first.text, again.text]).toEqual([expected, expected])
      expect(first.report.cachedTokens).toBe(0)
      expect(again.report.cachedTokens).toBeGreaterThan(400)
      const unused = await complete(keys[0], { cache_prompt: false })
      expect(unused.text).toBe(expected)
      expect(unused.report.cachedTokens).toBe(0)
    },
    testMs,
  )

  test(
    'shares nothing between tenants',
    async () => {
      await complete(keys[0])
      const theirs = await complete(keys[1])
      expect(theirs.report.cachedTokens).toBe(0)
      expect((await complete(keys[1])).report.cachedTokens).toBeGreaterThan(400)
    },
    testMs,
  )
})
