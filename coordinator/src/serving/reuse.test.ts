/**
 * Prefix reuse on the serving side: what devices are told of cached blocks, and what a request's report says
 * of them. Against fake devices over real gRPC and a real nats-server.
 */
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import { ReuseMode } from '@kvasir/proto/kvasir/inference/v1/inference'
import { LeasePurpose } from '@kvasir/proto/kvasir/kv/v1/kv'
import { startNatsServer, type TestNatsServer } from '@kvasir/runtime/testing/nats-server'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { hashRange, NO_HASHES } from '../core/block-hashes.js'
import type { GenerationRequest, RequestReport } from '../generation.js'
import type { FakeDevice } from './testing/fake-device.js'
import { fakeTokens } from './testing/fake-device.js'
import {
  FPGA,
  GPU,
  gather,
  HOST,
  startTestCluster,
  type TestCluster,
  testRequest,
  until,
} from './testing/test-cluster.js'

let nats: TestNatsServer
let cluster: TestCluster

beforeAll(async () => {
  nats = await startNatsServer()
})
afterAll(async () => {
  await nats.close()
})
beforeEach(async () => {
  cluster = await startTestCluster(nats)
})
afterEach(async () => {
  await cluster.close()
})

const promptTokens = Array.from({ length: 200 }, (_, index) => index)

/** Serves a request to its end and gives its report. */
async function serve(wish: Partial<GenerationRequest> = {}): Promise<RequestReport> {
  const request = testRequest({ promptTokens, ...wish })
  const gathered = await gather(cluster.serving.submit(request))
  expect(gathered.ids).toEqual(fakeTokens(request.promptTokens, request.maxTokens))
  const report = cluster.serving.request(request.requestId)
  if (!report) throw new Error('The request was served.')
  return report
}

function directoryBlocks(device: FakeDevice): number {
  const devices = cluster.serving.kv().devices
  return devices.find(({ deviceId }) => deviceId === device.deviceId)?.directoryBlocks ?? 0
}

async function untilKnown(device: FakeDevice, blocks: number): Promise<void> {
  await until(`${blocks} blocks are known on ${device.deviceId}`, () => directoryBlocks(device) === blocks)
}

const runsOf = (report: RequestReport) =>
  report.prefix?.runs.map(({ source, device, firstBlock, blocks, tokens }) => {
    return { source, device, firstBlock, blocks, tokens }
  })

describe('a prompt that was computed before', () => {
  test('is taken from the memory of the device that prefills', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    fpga.stepMs = 1
    const first = await serve()
    expect(first.cachedTokens).toBe(0)
    expect(runsOf(first)).toEqual([
      { source: 'computed', device: 'gpu-0', firstBlock: 0, blocks: 12, tokens: 192 },
      { source: 'computed', device: 'gpu-0', firstBlock: 12, blocks: 1, tokens: 8 },
    ])
    expect(first.prefix?.runs.map(({ reason }) => reason)).toEqual([
      expect.stringContaining('not cached anywhere'),
      expect.stringContaining('only whole blocks are kept'),
    ])
    expect(first.tierReads).toEqual([{ tier: 'hbm', readBytes: expect.any(Number), movedBytes: 0 }])
    await untilKnown(gpu, 12)
    await untilKnown(fpga, 12)

    // A device with the same speed that prefers decoding and holds all of it prefills the rest itself.
    const second = await serve()
    expect(second.placements[0]).toMatchObject({ prefillDevice: 'fpga-0', decodeDevice: 'fpga-0' })
    expect(second.placements[0]?.reason).toContain('holds the beginning of the prompt')
    expect(second).toMatchObject({ cachedTokens: 192, prefix: { fetchedBytes: 0, fetchMs: null } })
    expect(runsOf(second)).toEqual([
      { source: 'local', device: 'fpga-0', firstBlock: 0, blocks: 12, tokens: 192 },
      { source: 'computed', device: 'fpga-0', firstBlock: 12, blocks: 1, tokens: 8 },
    ])
    expect(fpga.reserves.at(-1)).toMatchObject({ purpose: LeasePurpose.DECODE })
    expect(fpga.reserves.at(-1)?.prefix?.hashes).toHaveLength(12)
    expect(fpga.decodes.at(-1)).toMatchObject({
      prefix: { tokens: 192, deviceId: '' },
      reuse: ReuseMode.FULL,
    })
  })

  test('is not sent to a decoding device that holds it', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: [Capability.DECODE] })
    const { blockHashes } = testRequest({ promptTokens })
    gpu.blocks.store(blockHashes)
    fpga.blocks.store(hashRange(blockHashes, 0, 4))
    await untilKnown(gpu, 12)
    await untilKnown(fpga, 4)
    const report = await serve()
    expect(report).toMatchObject({ cachedTokens: 192, prefix: { heldByDecodeTokens: 64 } })
    expect(report.placements[0]?.reason).toContain('64 tokens need not be sent')
    expect(gpu.prefills[0]).toMatchObject({ prefix: { tokens: 192, deviceId: '', tier: 'hbm' } })
    expect(fpga.decodes[0]).toMatchObject({ prefix: undefined, source: { deviceId: 'gpu-0' } })
  })

  test('is fetched from where it is cached, as one source that is named with its endpoint', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    const host = await cluster.device({ deviceId: 'host-0', capabilities: HOST })
    host.blocks.store(hashRange(testRequest({ promptTokens }).blockHashes, 0, 10))
    await untilKnown(host, 10)
    const report = await serve()
    expect(gpu.prefills[0]).toMatchObject({
      prefix: { tokens: 160, deviceId: 'host-0', endpoint: expect.stringMatching(/^127/), tier: 'dram' },
      reuse: ReuseMode.FULL,
    })
    expect(report).toMatchObject({ cachedTokens: 160, prefix: { fetchedBytes: 160 * 64, fetchMs: 0.5 } })
    expect(report.prefix?.runs[0]).toMatchObject({
      source: 'fetched',
      device: 'host-0',
      tier: 'dram',
      tokens: 160,
    })
    expect(report.prefix?.runs[0]?.reason).toContain('fetched from host-0')
  })

  test('is computed where its source no longer has it, which is then not asked again', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    const host = await cluster.device({ deviceId: 'host-0', capabilities: HOST })
    const { blockHashes } = testRequest({ promptTokens })
    host.blocks.store(blockHashes)
    await untilKnown(host, 12)
    host.blocks.remove(hashRange(blockHashes, 6), false)
    const report = await serve()
    expect(report.cachedTokens).toBe(96)
    expect(runsOf(report)?.slice(0, 2)).toEqual([
      { source: 'fetched', device: 'host-0', firstBlock: 0, blocks: 6, tokens: 96 },
      { source: 'computed', device: 'gpu-0', firstBlock: 6, blocks: 6, tokens: 96 },
    ])
    expect(report.prefix?.runs[1]?.reason).toContain('host-0 no longer had them')
    await untilKnown(host, 6)
    expect(gpu.prefills).toHaveLength(1)
  })

  test('is neither used nor left behind where the request says so', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    gpu.blocks.store(testRequest({ promptTokens }).blockHashes)
    await untilKnown(gpu, 12)
    const report = await serve({ reusePrefix: false, blockHashes: NO_HASHES })
    expect(report.cachedTokens).toBe(0)
    expect(report.prefix?.runs.map(({ reason }) => reason)).toEqual([expect.stringContaining('cache_prompt')])
    expect(gpu.prefills[0]).toMatchObject({ prefix: undefined, reuse: ReuseMode.NONE })
    expect(fpga.reserves[0]?.prefix).toBeUndefined()
    expect(fpga.decodes[0]).toMatchObject({ reuse: ReuseMode.NONE })
    await untilKnown(fpga, 0)
  })

  test('of one tenant is not used for another', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    await serve({ tenantSalt: Uint8Array.of(1) })
    await untilKnown(gpu, 12)
    expect((await serve({ tenantSalt: Uint8Array.of(2) })).cachedTokens).toBe(0)
    expect((await serve({ tenantSalt: Uint8Array.of(1) })).cachedTokens).toBe(192)
  })
})

describe('the directory', () => {
  test('asks a device for its blocks when it comes, and when an event was missed', async () => {
    const { blockHashes } = testRequest({ promptTokens })
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    await until('it was asked', () => gpu.blocks.snapshots === 1)
    gpu.blocks.store(hashRange(blockHashes, 0, 2))
    await untilKnown(gpu, 2)
    gpu.blocks.remove(hashRange(blockHashes, 0, 1), false)
    gpu.blocks.store(hashRange(blockHashes, 2, 4))
    await until('it was asked again', () => gpu.blocks.snapshots === 2)
    await untilKnown(gpu, 3)
    expect(cluster.serving.kv().directory).toMatchObject({ blocks: 3, blocksMax: 1_000_000, healing: [] })
  })

  test('forgets what a device held when its next life begins', async () => {
    const first = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    first.blocks.store(testRequest({ promptTokens }).blockHashes)
    await untilKnown(first, 12)
    await first.kill()
    const second = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    await untilKnown(second, 0)
  })

  test('is shown with the tiers of every device that keeps blocks', async () => {
    await cluster.device({ deviceId: 'host-0', capabilities: HOST })
    await cluster.device({ deviceId: 'search-0', capabilities: [Capability.RETRIEVE] })
    // Devices of the tests before are lost, and still advertised.
    const shown = () => cluster.serving.kv().devices.filter(({ state }) => state === 'ready')
    await until('it has reported', () => (shown()[0]?.tiers[0]?.cachedBytes ?? 0) > 0)
    expect(shown()).toEqual([
      {
        deviceId: 'host-0',
        kind: 'fake',
        state: 'ready',
        directoryBlocks: 0,
        tiers: [
          {
            name: 'dram',
            kind: 'host-dram',
            capacityBytes: 2 ** 30,
            leasedBytes: 0,
            cachedBytes: 4_096,
            bandwidthBytesPerSecond: 10e9,
            modelled: false,
            lookups: 8,
            hits: 6,
            hitRate: 0.75,
            inBytes: 1,
            outBytes: 2,
            readBytes: 3,
            droppedBlocks: 4,
          },
        ],
      },
    ])
  })
})
