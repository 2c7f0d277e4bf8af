/** Profile paper: the GPU computes in float, the FPGA in few bits, and a text may go on in other numerics. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, TestCluster, untilIdle } from './support/cluster.js'
import { models, refusal } from './support/models.js'
import { type StreamOptions, type StreamResult, streamCompletion } from './support/streams.js'

/** Enough that the stream still runs when its client has seen its beginning. */
const maxTokens = 600
const paper = ['--profile', 'paper']
const fields = { return_token_ids: true, cache_prompt: false }
const slow = { timeout: 60_000 }
let cluster: TestCluster

beforeAll(async () => {
  cluster = await TestCluster.start({
    agents: [gpu('gpu-0', paper), fpga('fpga-0', paper)],
    coordinatorFlags: paper,
  })
})
afterAll(() => cluster?.stop())

/** A stream that stays where it was placed: on a machine that is too busy, a device is taken for lost. */
async function undisturbedStream(options: StreamOptions): Promise<StreamResult> {
  for (let tries = 1; ; tries++) {
    const result = await streamCompletion(cluster, { ...options, fields })
    const { placements } = await cluster.request(result.requestId)
    if (placements.length === 1 || tries === 3) return result
  }
}

test('a GPU prefills in float, an FPGA decodes in few bits, and nothing has changed', async () => {
  const [card] = await models(cluster)
  expect(card?.kvasir).toMatchObject({ ready: true, profiles: ['paper'] })
  const numerics = card?.kvasir.devices.map((device) => [device.device_id, device.numerics]).sort()
  expect(numerics).toEqual([
    ['fpga-0', 'w4a8+kv8'],
    ['gpu-0', 'f32+wire8'],
  ])
  const result = await undisturbedStream({ maxTokens: 32 })
  expect(result).toMatchObject({ completionTokens: 32, numericsChanged: false })
  const report = await cluster.request(result.requestId)
  expect(report.placements).toMatchObject([
    { prefillDevice: 'gpu-0', decodeDevice: 'fpga-0', profile: 'paper', numerics: 'w4a8+kv8' },
  ])
  // 11 prompt tokens in one block: 6 layers of [K|V][2 heads][16 tokens] rows of 32 bytes and a scale.
  expect(report.kv.bytes).toBe(6 * 2 * 2 * 16 * (32 + 4))
  await untilIdle(cluster)
})

test('exact numerics are refused at once where no device has them', async () => {
  const refused = await refusal(cluster, { model: 'skald', profile: 'exact' })
  expect(refused).toMatchObject({ status: 404, code: 'profile_not_loaded' })
  expect(refused.message).toContain('"profile": "paper"')
})

test(
  'kill -9 of the FPGA in mid-stream: every token once and in order, and the numerics changed',
  slow,
  async () => {
    const undisturbed = await undisturbedStream({ maxTokens })
    const before: number[] = []
    const result = await streamCompletion(cluster, {
      maxTokens,
      fields,
      onChunk: async (chunks, requestId) => {
        if (chunks !== 20) return
        before.push((await cluster.request(requestId)).completionTokens)
        await cluster.kill('fpga-0')
      },
    })
    expect(result).toMatchObject({
      completionTokens: maxTokens,
      finishReason: 'length',
      numericsChanged: true,
    })
    expect(result.tokens).toHaveLength(maxTokens)
    const emitted = before[0] ?? 0
    expect(emitted).toBeGreaterThanOrEqual(20)
    expect(result.tokens.slice(0, emitted)).toEqual(undisturbed.tokens.slice(0, emitted))
    const report = await cluster.request(result.requestId)
    expect(report).toMatchObject({ numericsChanged: true, completionTokens: maxTokens })
    expect(report.placements.map(({ decodeDevice, numerics }) => [decodeDevice, numerics])).toEqual([
      ['fpga-0', 'w4a8+kv8'],
      ['gpu-0', 'f32+wire8'],
    ])
    await cluster.startAgent('fpga-0')
    await cluster.untilDevicesReady(['fpga-0'])
    const again = await undisturbedStream({ maxTokens: 32 })
    expect(again.numericsChanged).toBe(false)
  },
)
