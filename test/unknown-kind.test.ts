/** What an agent may do follows from its capabilities, never from its kind. */
import { afterEach, expect, test } from 'vitest'
import { type AgentSpec, gpu, TestCluster, untilIdle } from './support/cluster.js'
import { streamCompletion } from './support/streams.js'

const npu: AgentSpec = { name: 'npu-0', script: 'test/support/npu-agent.mjs' }
let cluster: TestCluster | undefined

afterEach(async () => {
  await cluster?.stop()
  cluster = undefined
})

test('an NPU that prefers decode decodes what a GPU prefilled', async () => {
  cluster = await TestCluster.start({ agents: [gpu(), npu] })
  const result = await streamCompletion(cluster, { maxTokens: 24 })
  const report = await cluster.request(result.requestId)
  expect(report.placements.at(-1)).toMatchObject({ prefillDevice: 'gpu-0', decodeDevice: 'npu-0' })
  await untilIdle(cluster)
})

test('an NPU alone prefills and decodes', async () => {
  cluster = await TestCluster.start({ agents: [npu] })
  const result = await streamCompletion(cluster, { maxTokens: 24 })
  expect(result.completionTokens).toBe(24)
  const report = await cluster.request(result.requestId)
  expect(report.placements.at(-1)).toMatchObject({ prefillDevice: 'npu-0', decodeDevice: 'npu-0' })
  await untilIdle(cluster)
})
