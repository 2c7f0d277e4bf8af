/**
 * Requests whose attention is sparse or runs on another device, against fake devices over real gRPC.
 */
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import { AttentionMethod } from '@kvasir/proto/kvasir/inference/v1/inference'
import { LeasePurpose } from '@kvasir/proto/kvasir/kv/v1/kv'
import { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { OverloadedError, UnreachableError } from '@kvasir/runtime/errors'
import { startNatsServer, type TestNatsServer } from '@kvasir/runtime/testing/nats-server'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { AttentionWish } from '../generation.js'
import { type FakeDevice, fakeTokens } from './testing/fake-device.js'
import {
  FPGA,
  GPU,
  gather,
  startTestCluster,
  type TestCluster,
  testRequest,
  until,
  untilIdle,
} from './testing/test-cluster.js'

let nats: TestNatsServer
let cluster: TestCluster
let gpu: FakeDevice
let fpgas: FakeDevice[]

beforeAll(async () => {
  nats = await startNatsServer()
})
afterAll(async () => {
  await nats.close()
})
beforeEach(async () => {
  cluster = await startTestCluster(nats, { placementDeadlineMs: 1_000 })
  gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
  fpgas = []
  for (const deviceId of ['fpga-0', 'fpga-1']) {
    fpgas.push(await cluster.device({ deviceId, capabilities: [...FPGA, Capability.ATTEND] }))
  }
})
afterEach(async () => {
  await cluster.close()
})

const promptTokens = Array.from({ length: 100 }, (_, index) => index)
const bounds = (place: AttentionWish['place']): AttentionWish => ({
  method: 'page-bounds',
  budget: { share: 0.25 },
  place,
})

async function untilNobodyAttends(): Promise<void> {
  await until('no device attends', () => fpgas.every(({ attendLeases }) => attendLeases.size === 0))
  await untilIdle(gpu, ...fpgas)
}

test('the device that attends is asked for the prompt’s pages before anything runs, and named to the other', async () => {
  const request = testRequest({ promptTokens, maxTokens: 10, attention: bounds('partial') })
  const gathered = await gather(cluster.serving.submit(request))
  expect(gathered).toEqual({ ids: fakeTokens(promptTokens, 10), reason: 'length' })

  const [reserve] = fpgas.flatMap(({ reserves }) => reserves)
  expect(reserve).toMatchObject({ purpose: LeasePurpose.ATTEND, tokens: 96, epoch: 1 })
  expect(gpu.reserves).toMatchObject([{ purpose: LeasePurpose.DECODE, tokens: 110 }])
  const [decode] = gpu.decodes
  expect(decode?.attention).toEqual({
    method: AttentionMethod.PAGE_BOUNDS,
    budgetTokens: 0,
    budgetShare: 0.25,
  })
  expect(decode?.offload).toMatchObject({
    deviceId: decode?.offload?.lease?.deviceId,
    endpoint: expect.stringMatching(/^127\.0\.0\.1:\d+$/),
    mode: AttendMode.PARTIAL,
  })
  await untilNobodyAttends()
})

test('its report has the attention and its four stages, with predicted and measured times', async () => {
  const request = testRequest({ promptTokens, maxTokens: 10, attention: bounds('indices') })
  await gather(cluster.serving.submit(request))
  const report = cluster.serving.request(request.requestId)
  expect(report?.attention).toMatchObject({
    method: 'page-bounds',
    place: 'indices',
    attendDevice: expect.stringMatching(/^fpga-/),
    asked: true,
    promptPages: 7,
    budgetPages: 2,
    pages: 8 * 20,
    pagesRead: 2 * 20,
    wireBytes: 2_000,
    remoteMs: 1,
    reason: expect.stringMatching(/chooses the pages, as asked\.$/),
  })
  const attendDevice = report?.attention?.attendDevice
  const stages = report?.stages.filter(({ pipeline }) => pipeline === 'attention')
  expect(stages).toMatchObject([
    { stage: 'prepare', devices: ['gpu-0'], measuredMs: 0 },
    { stage: 'relevancy', devices: [attendDevice], measuredMs: 0.02 },
    { stage: 'retrieval', devices: [attendDevice], measuredMs: 0.01 },
    { stage: 'apply', devices: ['gpu-0'], measuredMs: 0.04 },
  ])
  for (const { predictedMs } of stages ?? []) expect(predictedMs).toBeGreaterThan(0)
})

test('dense attention on the decoding device says nothing to devices and is no pipeline', async () => {
  const request = testRequest({ promptTokens, maxTokens: 10 })
  await gather(cluster.serving.submit(request))
  const decode = fpgas.flatMap(({ decodes }) => decodes)[0]
  expect(decode?.attention).toBeUndefined()
  expect(decode?.offload).toBeUndefined()
  const report = cluster.serving.request(request.requestId)
  expect(report?.attention).toMatchObject({
    method: 'dense',
    place: 'local',
    attendDevice: null,
    asked: false,
  })
  expect(report?.stages.filter(({ pipeline }) => pipeline === 'attention')).toEqual([])
})

test('the prefilling device is told too, since it prepares the bounds', async () => {
  const request = testRequest({ promptTokens, maxTokens: 10, attention: bounds('local') })
  await gather(cluster.serving.submit(request))
  expect(gpu.prefills[0]?.attention?.method).toBe(AttentionMethod.PAGE_BOUNDS)
  expect(cluster.serving.request(request.requestId)?.attention).toMatchObject({ place: 'local' })
})

test('when the device that attends is lost, the stream goes on with another', async () => {
  // As the decoding device says it, here before its first token.
  gpu.onDecode = ({ offload, sequence }) => {
    if (sequence?.epoch !== 1) return
    const deviceId = offload?.deviceId ?? ''
    throw new UnreachableError(`Device ${deviceId} did not answer.`, { ids: { deviceId } })
  }
  const request = testRequest({ promptTokens, maxTokens: 20, attention: bounds('partial') })
  const gathered = await gather(cluster.serving.submit(request))
  expect(gathered).toEqual({ ids: fakeTokens(promptTokens, 20), reason: 'length' })
  const [first, second] = gpu.decodes.map(({ offload }) => offload?.deviceId)
  expect(new Set([first, second])).toEqual(new Set(['fpga-0', 'fpga-1']))
  const report = cluster.serving.request(request.requestId)
  expect(report?.placements[1]?.reason).toContain(`Placed again because ${first} was lost`)
  expect(report?.attention?.attendDevice).toBe(second)
  // Every token came from the second placement.
  expect(report?.numericsChanged).toBe(false)
  await untilNobodyAttends()
})

test('a move in mid-stream changes the order of sums, and says so', async () => {
  gpu.stepMs = 5
  const request = testRequest({ promptTokens, maxTokens: 60, attention: bounds('partial') })
  const gathered = await gather(cluster.serving.submit(request), (count) => {
    if (count === 10) void gpu.kill()
  })
  expect(gathered.ids).toEqual(fakeTokens(promptTokens, 60))
  expect(cluster.serving.request(request.requestId)?.numericsChanged).toBe(true)
  // What the client had is decoded again and not prefilled, which would be dense.
  const again = fpgas.flatMap(({ decodes }) => decodes)
  expect(again.length).toBeGreaterThan(0)
  for (const { tokens, firstIndex, replay } of again) {
    expect({ tokens, firstIndex }).toEqual({ tokens: promptTokens, firstIndex: 0 })
    expect(replay?.tokens.length).toBeGreaterThanOrEqual(10)
    expect(replay?.tokens).toEqual(fakeTokens(promptTokens, replay?.tokens.length ?? 0))
  }
  await until('no device attends', () => fpgas.every(({ attendLeases }) => attendLeases.size === 0))
})

test('a refusal of either device releases what the other granted', async () => {
  for (const fpga of fpgas) {
    fpga.onReserve = () => {
      throw new OverloadedError(`${fpga.deviceId} is full.`)
    }
  }
  const request = testRequest({ promptTokens, attention: bounds('partial') })
  await expect(gather(cluster.serving.submit(request))).rejects.toThrow(
    /without another device that could attend for it/,
  )
  expect(gpu.decodes).toEqual([])
  await untilNobodyAttends()
})

test('a client that leaves frees the pages too', async () => {
  gpu.stepMs = 20
  const request = testRequest({ promptTokens, maxTokens: 1_000, attention: bounds('partial') })
  for await (const event of cluster.serving.submit(request).events) if (event.type === 'tokens') break
  expect(fpgas.some(({ attendLeases }) => attendLeases.size === 1)).toBe(true)
  await untilNobodyAttends()
})
