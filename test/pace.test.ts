/** A cluster paced to the catalogue: its times are the catalogue's, its text is the engine's, and it says so. */

import { deviceModel } from '@kvasir/catalogue/device-model'
import { deviceTimes } from '@kvasir/catalogue/device-times'
import { builtinCatalogue } from '@kvasir/catalogue/load-catalogue'
import { createLocalGenerator, type LocalGenerator } from '@kvasir/engine/local-generator'
import { loadTextModel } from '@kvasir/engine/text/text-model'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { fpga, gpu, skald, TestCluster, until, untilIdle } from './support/cluster.js'
import { openai } from './support/streams.js'

const model = 'llama-2-7b'
const maxTokens = 48
const promptTokens = 512
const testMs = 60_000
/** For what a busy machine does between a device and a client. */
const slackMs = 2_000
/** Of the catalogued model, so slow that a prompt's KV takes longer than its prefill. */
const linkBytesPerSecond = 1e9

let cluster: TestCluster
let local: LocalGenerator

const paced = (device: string, ...more: readonly string[]) => [
  ...['--pace-as', device, '--pace-model', model, ...more],
]

beforeAll(async () => {
  cluster = await TestCluster.start({
    agents: [
      gpu('gpu-0', paced('v100s', '--link-bytes-per-second', String(linkBytesPerSecond))),
      // KV in one memory, so that what a token takes follows from its context alone.
      fpga('fpga-0', paced('u280', '--ddr-bytes', '0')),
    ],
  })
  local = await createLocalGenerator({ model: skald, threads: 1 })
}, 120_000)
afterEach(() => untilIdle(cluster))
afterAll(async () => {
  await local?.close()
  await cluster?.stop()
})

async function promptOf(tokens: number): Promise<number[]> {
  const text = await loadTextModel(skald)
  return text
    .encode('Once upon a time there was a wolf who lived in a wood. '.repeat(tokens / 8))
    .slice(0, tokens)
}

async function localTokens(prompt: readonly number[]): Promise<number[]> {
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0n, logprobs: false, topLogprobs: 0 }
  const tokens: number[] = []
  for await (const { id } of local.generate(prompt, { sampling, maxTokens, stopTokens: [] })) tokens.push(id)
  return tokens
}

interface Timed {
  readonly requestId: string
  readonly tokens: readonly number[]
  /** Since the request was sent. */
  readonly tokenMs: readonly number[]
  readonly last: unknown
}

async function streamed(prompt: readonly number[]): Promise<Timed> {
  const sentMs = performance.now()
  const { data, response } = await openai(cluster)
    .completions.create({
      model: 'skald',
      prompt: [...prompt],
      max_tokens: maxTokens,
      temperature: 0,
      stream: true,
      ...{ ignore_eos: true, return_token_ids: true },
    })
    .withResponse()
  const tokens: number[] = []
  const tokenMs: number[] = []
  let last: unknown
  for await (const chunk of data) {
    const ids = (chunk.choices[0] as { readonly token_ids?: readonly number[] } | undefined)?.token_ids ?? []
    for (const id of ids) {
      tokens.push(id)
      tokenMs.push(performance.now() - sentMs)
    }
    last = chunk
  }
  return { requestId: response.headers.get('x-kvasir-request-id') ?? '', tokens, tokenMs, last }
}

const onDevice = (device: string) => deviceModel(builtinCatalogue(), { device, model, preset: 'glitches' })
const timesOf = (device: string) => deviceTimes(onDevice(device))
const llama = onDevice('u280').model

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)

/** Of the FPGA and the GPU. */
async function paces() {
  return (await cluster.cluster()).devices.map(({ pace }) => pace)
}

describe('a cluster paced to a V100S and a U280 with Llama-2-7B', () => {
  test(
    'gives the text of one engine, in the catalogue’s time for every token, the prompt, and its KV on the link',
    async () => {
      const prompt = await promptOf(promptTokens)
      const { tokens, tokenMs, requestId, last } = await streamed(prompt)
      expect(tokens).toEqual(await localTokens(prompt))
      const { decodeDevice, prefillDevice } = (await cluster.request(requestId)).placements[0] ?? {}
      expect([prefillDevice, decodeDevice]).toEqual(['gpu-0', 'fpga-0'])

      // What the devices' steps took by the catalogue: the first token comes from the GPU, the others from the FPGA.
      const chunks = Array.from({ length: promptTokens / 256 }, (_, chunk) => ({
        start: 256 * chunk,
        count: 256,
      }))
      const v100s = timesOf('v100s')
      const prefillMs = sum(chunks.map((chunk) => v100s.stepMs({ prefills: [chunk], decodes: [] })))
      const u280 = timesOf('u280')
      const contexts = Array.from({ length: maxTokens - 1 }, (_, index) => promptTokens + 1 + index)
      const stepsMs = contexts.map((context) => u280.stepMs({ prefills: [], decodes: [context] }))
      await until('both devices have reported their steps', async () => {
        const [decoding, prefilling] = await paces()
        return decoding?.steps === stepsMs.length && prefilling?.steps === chunks.length
      })
      const [decoding, prefilling] = await paces()
      expect((decoding?.busyMs ?? 0) / sum(stepsMs)).toBeCloseTo(1, 4)
      expect((prefilling?.busyMs ?? 0) / prefillMs).toBeCloseTo(1, 4)

      // What the client sees is that, and what this machine adds: steps that it computes late, and ways to the client.
      const [first = Number.NaN, second = Number.NaN] = tokenMs
      const shownMs = (tokenMs.at(-1) ?? Number.NaN) - first
      expect(shownMs).toBeGreaterThan(sum(stepsMs) * 0.9)
      expect(first).toBeGreaterThan(prefillMs)
      expect(first).toBeLessThan(prefillMs + (prefilling?.lateMs ?? 0) + slackMs)
      expect((tokenMs.at(-1) ?? Number.NaN) - second).toBeLessThan(
        sum(stepsMs) + (decoding?.lateMs ?? 0) + slackMs,
      )

      // In f32, as the profile sends it.
      const kvBytes = promptTokens * llama.kvValuesPerToken * 4
      const { kv, modelled } = await cluster.request(requestId)
      expect((kv.modelledBytes ?? 0) / kvBytes).toBeCloseTo(1, 2)
      const kvMs = (kvBytes / linkBytesPerSecond) * 1_000
      expect(kvMs).toBeGreaterThan(prefillMs)
      expect(second).toBeGreaterThan(kvMs)
      expect(second).toBeLessThan(kvMs + prefillMs + (stepsMs[0] ?? 0) + (prefilling?.lateMs ?? 0) + slackMs)

      const names = { model, preset: 'glitches' }
      expect(modelled).toEqual([
        { deviceId: 'gpu-0', device: 'v100s', ...names },
        { deviceId: 'fpga-0', device: 'u280', ...names },
      ])
      expect(last).toMatchObject({ kvasir: { modelled: [{ device_id: 'gpu-0' }, { device_id: 'fpga-0' }] } })
    },
    testMs,
  )

  test(
    'shows what each device stands for, and how many steps were late',
    async () => {
      const { devices } = await cluster.cluster()
      const [fpgaReport, gpuReport] = devices
      expect(gpuReport).toMatchObject({
        modelled: true,
        pace: { device: 'v100s', model, preset: 'glitches' },
      })
      expect(fpgaReport).toMatchObject({ modelled: true, decodeSlots: 1, pace: { device: 'u280' } })
      const { steps = 0, lateSteps = 0, lateMs = -1, kvTokens = 0 } = fpgaReport?.pace ?? {}
      expect(steps).toBeGreaterThanOrEqual(maxTokens - 1)
      expect(lateSteps).toBeLessThanOrEqual(steps)
      expect(lateMs === 0).toBe(lateSteps === 0)
      expect(kvTokens).toBeLessThan(fpgaReport?.pace?.cataloguedKvTokens ?? 0)
    },
    testMs,
  )
})
