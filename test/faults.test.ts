/** What may break while a request runs, and what its client sees of it: nothing, or one clear error. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, TestCluster, until, untilIdle } from './support/cluster.js'
import { streamCompletion } from './support/streams.js'

const maxTokens = 600
let cluster: TestCluster
let undisturbed: string

beforeAll(async () => {
  cluster = await TestCluster.start({ agents: [gpu(), fpga('fpga-0'), fpga('fpga-1')] })
  undisturbed = (await streamCompletion(cluster, { maxTokens })).text
})
afterEach(() => untilIdle(cluster))
afterAll(() => cluster?.stop())

test('kill -9 of the decoding FPGA agent in mid-stream: the text equals the undisturbed run', async () => {
  let killed = ''
  const result = await streamCompletion(cluster, {
    maxTokens,
    onChunk: async (chunks, requestId) => {
      if (chunks !== 40) return
      killed = (await cluster.request(requestId)).placements[0]?.decodeDevice ?? ''
      await cluster.kill(killed)
    },
  })
  expect(killed).toMatch(/^fpga-/)
  expect(result.text).toBe(undisturbed)
  expect(result.completionTokens).toBe(maxTokens)
  const report = await cluster.request(result.requestId)
  expect(report.placements.length).toBeGreaterThan(1)
  await cluster.startAgent(killed)
  await cluster.untilDevicesReady([killed])
})

test('kill -9 of both FPGA agents: a GPU decodes the rest', async () => {
  const result = await streamCompletion(cluster, {
    maxTokens,
    onChunk: async (chunks) => {
      if (chunks === 40) await Promise.all([cluster.kill('fpga-0'), cluster.kill('fpga-1')])
    },
  })
  expect(result.text).toBe(undisturbed)
  expect((await cluster.request(result.requestId)).placements.at(-1)?.decodeDevice).toBe('gpu-0')
  await Promise.all([cluster.startAgent('fpga-0'), cluster.startAgent('fpga-1')])
  await cluster.untilDevicesReady(['fpga-0', 'fpga-1'])
})

test('kill -9 of the GPU agent in mid-prefill: an FPGA agent prefills', async () => {
  const prompt = 'The king said to the fox that the road went on. '.repeat(250)
  // Nothing is cached, or the second prefill would be over at once.
  const fields = { cache_prompt: false }
  const expected = await streamCompletion(cluster, { prompt, maxTokens: 20, fields })
  const running = streamCompletion(cluster, { prompt, maxTokens: 20, fields })
  await until('the GPU agent prefills', async () => {
    const devices = (await cluster.cluster()).devices
    return devices.some((d) => d.deviceId === 'gpu-0' && d.leases > 0)
  })
  await cluster.kill('gpu-0')
  expect((await running).text).toBe(expected.text)
  await cluster.startAgent('gpu-0')
  await cluster.untilDevicesReady(['gpu-0'])
})

test('a crashed agent is not chosen after 1.1 s; it comes back with a new incarnation', async () => {
  const incarnation = async () =>
    (await cluster.cluster()).devices.find((d) => d.deviceId === 'fpga-0')?.incarnation
  const before = await incarnation()
  await cluster.kill('fpga-0')
  const since = Date.now()
  await until('fpga-0 is seen as lost', async () =>
    (await cluster.cluster()).devices.every((d) => d.deviceId !== 'fpga-0' || d.state === 'lost'),
  )
  // 1.1 s on the core's clock, which its own tests hold exactly; the rest is this machine's.
  expect(Date.now() - since).toBeLessThan(2_000)
  for (let i = 0; i < 4; i++) {
    const result = await streamCompletion(cluster, { maxTokens: 4 })
    expect((await cluster.request(result.requestId)).placements[0]?.decodeDevice).toBe('fpga-1')
  }
  await cluster.startAgent('fpga-0')
  await cluster.untilDevicesReady(['fpga-0'])
  expect(await incarnation()).not.toBe(before)
})

test('nats-server killed and restarted in mid-stream disturbs no request', async () => {
  const result = await streamCompletion(cluster, {
    maxTokens,
    onChunk: async (chunks) => {
      if (chunks === 40) await cluster.killNats()
    },
  })
  expect(result.text).toBe(undisturbed)
  const duringOutage = await streamCompletion(cluster, {
    maxTokens,
    onChunk: async (chunks) => {
      if (chunks === 40) await cluster.startNats()
    },
  })
  expect(duringOutage.text).toBe(undisturbed)
  expect((await cluster.request(duringOutage.requestId)).placements).toHaveLength(1)
})

test('serving goes on through a long NATS outage, and devices are back after it', async () => {
  await cluster.killNats()
  const since = Date.now()
  while (Date.now() - since < 2_500) {
    const result = await streamCompletion(cluster, { maxTokens: 50 })
    expect(undisturbed.startsWith(result.text)).toBe(true)
  }
  await cluster.startNats()
  await cluster.untilDevicesReady(['gpu-0', 'fpga-0', 'fpga-1'])
})
