/** The whole path, undisturbed: GPU prefills, FPGA decodes, the text is the engine's own. */
import { createLocalGenerator, type LocalGenerator } from '@kvasir/engine/local-generator'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, host, skald, TestCluster, untilIdle } from './support/cluster.js'
import { openai, storyPrompt, streamCompletion } from './support/streams.js'

let cluster: TestCluster
let local: LocalGenerator

beforeAll(async () => {
  cluster = await TestCluster.start({ agents: [host(), gpu(), fpga('fpga-0'), fpga('fpga-1')] })
  local = await createLocalGenerator({ model: skald })
})
afterEach(() => untilIdle(cluster))
afterAll(async () => {
  await local?.close()
  await cluster?.stop()
})

async function localText(prompt: string, maxTokens: number, seed: number, temperature: number) {
  const text = await loadTextModel(skald)
  const decoder = text.decoder()
  let result = ''
  const tokens = local.generate(text.encode(prompt), {
    maxTokens,
    stopTokens: [],
    sampling: {
      temperature,
      topP: 1,
      topK: 0,
      seed: BigInt(seed),
      logprobs: false,
      topLogprobs: 0,
    },
  })
  for await (const token of tokens) result += decoder.push(token.id)
  return result + decoder.flush()
}

test('a GPU prefills, an FPGA decodes, and the KV cache went from one to the other', async () => {
  const result = await streamCompletion(cluster, { maxTokens: 32 })
  expect(result.finishReason).toBe('length')
  expect(result.completionTokens).toBe(32)
  const report = await cluster.request(result.requestId)
  expect(report.placements).toHaveLength(1)
  expect(report.placements[0]).toMatchObject({ prefillDevice: 'gpu-0' })
  expect(report.placements[0]?.decodeDevice).toMatch(/^fpga-/)
  // 11 prompt tokens in one block: 6 layers of [K|V][2 heads][16 tokens][32] f32.
  expect(report.kv.bytes).toBe(6 * 2 * 2 * 16 * 32 * 4)
  expect(result.text).toBe(await localText(storyPrompt, 32, 7, 0))
})

test('32 concurrent streams equal the same engine in one process', async () => {
  const cases = Array.from({ length: 32 }, (_, i) => ({
    prompt: `${storyPrompt} ${'said the king to the fox. '.repeat(i % 8)}`.trim(),
    maxTokens: 24 + (i % 5) * 8,
    seed: i,
    temperature: i % 2 === 0 ? 0 : 0.9,
  }))
  const [streams, expected] = await Promise.all([
    Promise.all(cases.map((options) => streamCompletion(cluster, options))),
    Promise.all(cases.map((c) => localText(c.prompt, c.maxTokens, c.seed, c.temperature))),
  ])
  expect(streams.map((stream) => stream.text)).toEqual(expected)
})

test('GPUs decode when every FPGA slot is taken', async () => {
  const streams = await Promise.all(
    Array.from({ length: 20 }, (_, i) => streamCompletion(cluster, { maxTokens: 200, seed: i })),
  )
  const reports = await Promise.all(streams.map((stream) => cluster.request(stream.requestId)))
  const decoders = new Set(reports.map((report) => report.placements.at(-1)?.decodeDevice))
  expect(decoders).toEqual(new Set(['fpga-0', 'fpga-1', 'gpu-0']))
  expect(new Set(streams.map((stream) => stream.text)).size).toBe(1)
})

test('a long prompt does not stall a running stream', async () => {
  const longPrompt = 'The king said to the fox that the road went on. '.repeat(250)
  let chunksWhilePrefill = 0
  let longDone = false
  let long: Promise<unknown> | undefined
  await streamCompletion(cluster, {
    maxTokens: 600,
    onChunk: (chunks) => {
      if (chunks === 20) {
        long = streamCompletion(cluster, { prompt: longPrompt, maxTokens: 2 }).then(() => {
          longDone = true
        })
      }
      if (long && !longDone) chunksWhilePrefill += 1
    },
  })
  await long
  expect(chunksWhilePrefill).toBeGreaterThan(10)
})

test('the official client: chat, usage, models, stop strings, log probabilities', async () => {
  const client = openai(cluster)
  const models = await client.models.list()
  expect(models.data.map((model) => model.id)).toEqual(['skald'])
  const chat = await client.chat.completions.create({
    model: 'skald',
    messages: [{ role: 'user', content: storyPrompt }],
    max_tokens: 12,
    temperature: 0,
    logprobs: true,
    top_logprobs: 2,
  })
  expect(chat.choices[0]?.message.content).toBe((await localText(storyPrompt, 12, 0, 0)).toString())
  expect(chat.choices[0]?.logprobs?.content).toHaveLength(12)
  expect(chat.usage).toMatchObject({ prompt_tokens: 11, completion_tokens: 12, total_tokens: 23 })
  const stopped = await client.completions.create({
    model: 'skald',
    prompt: storyPrompt,
    max_tokens: 40,
    temperature: 0,
    stop: ' and',
  })
  const whole = await localText(storyPrompt, 40, 0, 0)
  expect(stopped.choices[0]?.text).toBe(whole.slice(0, whole.indexOf(' and')))
  expect(stopped.choices[0]?.finish_reason).toBe('stop')
})

test("the context's end finishes with length", async () => {
  const prompt = 'a '.repeat(4_080)
  const text = await loadTextModel(skald)
  const promptTokens = text.encode(prompt).length
  expect(promptTokens).toBeLessThan(4_096)
  const response = await openai(cluster).completions.create({
    model: 'skald',
    prompt,
    max_tokens: 4_000,
    ...{ ignore_eos: true },
  })
  expect(response.choices[0]?.finish_reason).toBe('length')
  expect(response.usage?.total_tokens).toBe(4_096)
})

test('clients that disconnect free everything within one second', async () => {
  await Promise.all(
    Array.from({ length: 6 }, async (_, i) => {
      const leave = new AbortController()
      await streamCompletion(cluster, {
        maxTokens: 2_000,
        seed: i,
        signal: leave.signal,
        onChunk: (chunks) => {
          if (chunks === 3 + i * 5) leave.abort()
        },
      }).catch((error: unknown) => {
        if (!leave.signal.aborted) throw error
      })
    }),
  )
  // Reports come every 500 ms, so what is free within one second is seen within 1.5 s, and a busy machine is slower.
  await untilIdle(cluster, 2_000)
})
