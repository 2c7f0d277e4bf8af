/** What a client sees of sparse and offloaded attention over real processes, and what is left when none can attend. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { fpga, gpu, TestCluster, until, untilIdle } from './support/cluster.js'
import { openai, streamCompletion } from './support/streams.js'

const prompt = 'The king said to the fox that the road went on. '.repeat(30)
const maxTokens = 100
const half = { method: 'page-bounds', budget: '50%' }
let cluster: TestCluster

beforeAll(async () => {
  cluster = await TestCluster.start({
    agents: [gpu(), fpga('fpga-0'), fpga('fpga-1')],
    coordinatorFlags: ['--placement-deadline-ms', '3000'],
  })
})
afterEach(() => untilIdle(cluster))
afterAll(() => cluster?.stop())

const run = (attention: object) => streamCompletion(cluster, { prompt, maxTokens, fields: { attention } })

test('without a word of it attention is dense, on the FPGA that decodes alone', async () => {
  const { requestId } = await streamCompletion(cluster, { prompt, maxTokens })
  const report = await cluster.request(requestId)
  expect(report.attention).toMatchObject({ method: 'dense', place: 'local', attendDevice: null })
  expect(report.stages.filter(({ pipeline }) => pipeline === 'attention')).toEqual([])
})

describe('a budget of half the pages', () => {
  test.each(['partial', 'indices'])(
    '%s: half of the pages is read, and each stage is timed',
    async (place) => {
      const { requestId } = await run({ ...half, place })
      const report = await cluster.request(requestId)
      const { pages = 0, pagesRead = 0, attendDevice } = report.attention ?? {}
      expect(pagesRead / pages).toBeGreaterThan(0.45)
      expect(pagesRead / pages).toBeLessThan(0.6)
      const stages = report.stages.filter(({ pipeline }) => pipeline === 'attention')
      const decodeDevice = report.placements[0]?.decodeDevice
      expect(stages.map(({ stage, devices }) => [stage, ...devices])).toEqual([
        ['prepare', 'gpu-0'],
        ['relevancy', attendDevice],
        ['retrieval', attendDevice],
        ['apply', place === 'partial' ? attendDevice : decodeDevice],
      ])
      expect(decodeDevice).toBe('gpu-0')
      for (const { stage, predictedMs, measuredMs } of stages) {
        expect(predictedMs, stage).toBeGreaterThan(0)
        if (stage !== 'prepare') expect(measuredMs, stage).toBeGreaterThan(0)
      }
    },
  )
})

test('the answer says how it attended', async () => {
  const attention = { ...half, place: 'partial' }
  const answer = await openai(cluster).completions.create({
    ...{ model: 'skald', prompt, max_tokens: 8 },
    ...{ attention, ignore_eos: true },
  })
  const { kvasir } = answer as unknown as { readonly kvasir: { readonly attention: object } }
  expect(kvasir.attention).toMatchObject({
    method: 'page-bounds',
    place: 'partial',
    attend_device: expect.stringMatching(/^fpga-/),
    pages_read_share: expect.closeTo(0.5, 0),
  })
})

test('with no FPGA left a stream goes on without, and a new request is told what is missing', async () => {
  const attention = { ...half, place: 'indices' }
  const undisturbed = await run(attention)
  const result = await streamCompletion(cluster, {
    ...{ prompt, maxTokens, fields: { attention } },
    onChunk: async (chunks) => {
      if (chunks === 30) await Promise.all([cluster.kill('fpga-0'), cluster.kill('fpga-1')])
    },
  })
  expect(result.text).toBe(undisturbed.text)
  expect((await cluster.request(result.requestId)).attention).toMatchObject({
    method: 'page-bounds',
    place: 'local',
    attendDevice: null,
  })
  await until('both are seen as lost', async () =>
    (await cluster.cluster()).devices.every(({ kind, state }) => kind !== 'fpga' || state === 'lost'),
  )
  await expect(run(attention)).rejects.toMatchObject({
    status: 503,
    message: expect.stringContaining('without another device that could attend for it'),
  })
  await Promise.all([cluster.startAgent('fpga-0'), cluster.startAgent('fpga-1')])
  await cluster.untilDevicesReady(['fpga-0', 'fpga-1'])
}, 60_000)
