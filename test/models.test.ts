/** Models that are loaded and unloaded while a cluster serves, and tokenizers that come from the devices. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, host, TestCluster, until, untilIdle } from './support/cluster.js'
import { localText, models, refusal, untilLoaded } from './support/models.js'
import { openai, storyPrompt, streamCompletion } from './support/streams.js'

const tiny = 'dummy:llama-tiny'
const kvBytes = 16 << 20
const slow = { timeout: 60_000 }
const computing = ['fpga-0', 'gpu-0']
let cluster: TestCluster

// The coordinator is given no model: all that it knows of them comes from the devices.
beforeAll(async () => {
  cluster = await TestCluster.start({ agents: [host(), gpu(), fpga()], coordinatorModels: [] })
  await untilLoaded(cluster, 'skald', computing)
})
afterEach(() => untilIdle(cluster))
afterAll(() => cluster?.stop())

const load = async (fields: object) =>
  (await cluster.json('/v1/models/load', { model: tiny, kv_bytes: kvBytes, ...fields })) as {
    devices: { device_id: string; error: string | null }[]
  }
const untilGone = (model: string) =>
  until(`${model} is gone`, async () => (await models(cluster)).every(({ id }) => id !== model))

test('a tokenizer with its chat template comes from a device that has the model', async () => {
  const [skald] = await models(cluster)
  expect(skald).toMatchObject({ id: 'skald', kvasir: { chat: true, ready: true, profiles: ['exact'] } })
  const chat = await openai(cluster).chat.completions.create({
    model: 'skald',
    messages: [{ role: 'user', content: storyPrompt }],
    max_tokens: 12,
    temperature: 0,
    ...{ ignore_eos: true },
  })
  expect(chat.choices[0]?.message.content).toBe(await localText('skald', storyPrompt, 12))
})

test('a model is loaded beside another, both answer as alone, and one is unloaded again', slow, async () => {
  expect(await refusal(cluster, { model: tiny })).toMatchObject({ status: 404, code: 'model_not_found' })
  const answer = await load({})
  expect(answer.devices.map(({ error }) => error)).toEqual([null, null])
  await untilLoaded(cluster, tiny, computing)
  const cards = await models(cluster)
  expect(cards.map(({ id }) => id).sort()).toEqual([tiny, 'skald'])
  expect(cards.find(({ id }) => id === tiny)?.kvasir).toMatchObject({
    chat: false,
    profiles: ['exact'],
    devices: [{ numerics: 'f32' }, { numerics: 'f32' }],
  })

  const asked = ['skald', tiny, 'skald', tiny].map((model) => ({ model, maxTokens: 40 }))
  const texts = await Promise.all(asked.map((options) => streamCompletion(cluster, options)))
  const [skald, dummy] = [await localText('skald', storyPrompt, 40), await localText(tiny, storyPrompt, 40)]
  expect(texts.map(({ text }) => text)).toEqual([skald, dummy, skald, dummy])
  const report = await cluster.request(texts[1]?.requestId ?? '')
  expect(report.placements).toMatchObject([{ prefillDevice: 'gpu-0', decodeDevice: 'fpga-0' }])

  await cluster.json('/v1/models/unload', { model: tiny })
  await untilGone(tiny)
  const refused = await refusal(cluster, { model: tiny })
  expect(refused).toMatchObject({ status: 404, code: 'model_not_found' })
  expect(refused.message).toContain('"skald"')
  expect((await streamCompletion(cluster, { maxTokens: 40 })).text).toBe(skald)
})

test('work that runs when a model is unloaded ends first, whole', slow, async () => {
  await load({})
  await untilLoaded(cluster, tiny, computing)
  const expected = (await streamCompletion(cluster, { model: tiny, maxTokens: 400 })).text
  const running = await streamCompletion(cluster, {
    model: tiny,
    maxTokens: 400,
    onChunk: async (chunks) => {
      if (chunks === 5) await cluster.json('/v1/models/unload', { model: tiny, drain_ms: 20_000 })
    },
  })
  expect(running.text).toBe(expected)
  await untilGone(tiny)
})

test('a model on one device alone is served there; what does not fit says what it lacks', async () => {
  await load({ devices: ['fpga-0'] })
  await untilLoaded(cluster, tiny, ['fpga-0'])
  const { requestId, text } = await streamCompletion(cluster, { model: tiny, maxTokens: 20 })
  expect(text).toBe(await localText(tiny, storyPrompt, 20))
  const report = await cluster.request(requestId)
  expect(report.placements).toMatchObject([{ prefillDevice: 'fpga-0', decodeDevice: 'fpga-0' }])
  const [refused] = (await load({ devices: ['gpu-0'], kv_bytes: 1e15 })).devices
  expect(refused?.error).toMatch(/\d (GB|TB|PB)/)
  await cluster.json('/v1/models/unload', { model: tiny })
  await untilGone(tiny)
})
