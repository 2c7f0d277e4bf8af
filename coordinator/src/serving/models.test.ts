/**
 * Several models and numerics on the serving side, against fake devices over real gRPC and a real nats-server.
 */
import { ArrivalPhase, Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import { startNatsServer, type TestNatsServer } from '@kvasir/runtime/testing/nats-server'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { ModelReport } from '../model-reports.js'
import { FAKE_MODEL, type FakeModel, fakeTokens } from './testing/fake-device.js'
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

// Each with a server of its own: what the devices of another test advertised would be models here.
beforeEach(async () => {
  nats = await startNatsServer()
  cluster = await startTestCluster(nats, { placementDeadlineMs: 1_500 })
})
afterEach(async () => {
  await cluster.close()
  await nats.close()
})

const numbers: FakeModel = { ...FAKE_MODEL, profile: 'exact' }
const paperNumbers: FakeModel = { ...FAKE_MODEL, profile: 'paper' }
const letters: FakeModel = { name: 'letters', digest: 'digest-of-letters', profile: 'exact' }
const prompt = [1, 2, 3, 4, 5]

const reportOf = (name: string): ModelReport | undefined =>
  cluster.serving.models().find((model) => model.name === name)

describe('several models on a device', () => {
  test('are each served by the devices that have them', async () => {
    await cluster.device({ deviceId: 'gpu-0', capabilities: GPU, models: [numbers, letters] })
    const both = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA, models: [numbers, letters] })
    const one = await cluster.device({ deviceId: 'fpga-1', capabilities: FPGA, models: [letters] })
    const ofLetters = { model: 'letters', modelDigest: letters.digest }
    const requests = [testRequest(), testRequest(ofLetters), testRequest(ofLetters)]
    const results = await Promise.all(requests.map((request) => gather(cluster.serving.submit(request))))
    expect(results.map(({ ids }) => ids)).toEqual(requests.map(() => fakeTokens(prompt, 8)))
    expect(
      both.decodes
        .concat(one.decodes)
        .map(({ sequence }) => sequence?.modelDigest)
        .sort(),
    ).toEqual([letters.digest, letters.digest, numbers.digest])
    expect(one.decodes.every(({ sequence }) => sequence?.modelDigest === letters.digest)).toBe(true)
  })

  test('come and go, and are told as they do', async () => {
    let changes = 0
    cluster.serving.onModels(() => {
      changes += 1
    })
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    expect(changes).toBe(1)
    expect(cluster.serving.advertisedModels()).toMatchObject([{ name: 'numbers', digest: numbers.digest }])
    await gpu.setModels([numbers, letters])
    await until('letters are there', () => reportOf('letters') !== undefined)
    expect(reportOf('letters')).toMatchObject({
      contextTokensMax: 4_096,
      profiles: ['exact'],
      servedProfiles: ['exact', 'paper'],
      devices: [{ deviceId: 'gpu-0', state: 'loaded', numerics: 'f32', weightBytes: 4_000_000 }],
    })
    await gpu.setModels([letters])
    await until('numbers are gone', () => reportOf('numbers') === undefined)
    expect(changes).toBe(3)
    expect(cluster.serving.modelTraits(letters.digest)).toEqual({
      profiles: ['exact'],
      slidingWindowTokens: null,
    })
    expect(cluster.serving.modelTraits(numbers.digest)).toBeUndefined()
  })

  test('on their way are told by name until they are there, and what fails says why', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    const arrival = { name: '/models/letters', digest: letters.digest, profile: Profile.EXACT }
    gpu.arrivals = [{ ...arrival, phase: ArrivalPhase.FETCHING, bytes: 3n, bytesTotal: 9n }]
    await until('letters are on their way', () => reportOf('letters')?.devices[0]?.bytes === 3)
    expect(reportOf('letters')).toMatchObject({
      digest: letters.digest,
      contextTokensMax: null,
      servedProfiles: [],
      devices: [{ deviceId: 'gpu-0', state: 'fetching', bytesTotal: 9 }],
    })
    expect(cluster.serving.cluster().devices[0]?.arrivals).toMatchObject([{ name: '/models/letters' }])
    gpu.arrivals = [{ ...arrival, phase: ArrivalPhase.FAILED, error: 'It lacks 3 GB.' }]
    await until('it failed', () => reportOf('letters')?.devices[0]?.state === 'failed')
    expect(reportOf('letters')?.devices[0]?.error).toBe('It lacks 3 GB.')
    // Loaded after all, whatever is still said of the time before.
    await gpu.setModels([numbers, letters])
    await until('it is loaded', () => reportOf('letters')?.devices[0]?.state === 'loaded')
    expect(reportOf('letters')?.devices).toHaveLength(1)
  })
})

describe('orders', () => {
  test('to load reach each device, whose answers are told apart; a try that begins has not failed', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    fpga.onControl = () => 'It lacks 3 GB.'
    gpu.arrivals = [{ name: 'letters', profile: Profile.PAPER, phase: ArrivalPhase.FAILED, error: 'Before.' }]
    await until('the failure is told', () => reportOf('letters')?.devices[0]?.state === 'failed')
    gpu.arrivals = []
    const order = { model: 'letters', digest: letters.digest, profile: 'paper', kvBytes: 64 } as const
    expect(await cluster.serving.loadModel(['gpu-0', 'fpga-0', 'gone'], order)).toEqual([
      { deviceId: 'gpu-0', error: null },
      { deviceId: 'fpga-0', error: 'It lacks 3 GB.' },
      { deviceId: 'gone', error: expect.any(String) },
    ])
    expect(gpu.commands).toEqual([
      {
        $case: 'loadModel',
        value: { model: 'letters', digest: letters.digest, profile: Profile.PAPER, kvBytes: 64n },
      },
    ])
    expect(reportOf('letters')).toBeUndefined()
  })

  test('to unload name the model by digest and numerics, and say how long work may go on', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    const order = { deviceId: 'gpu-0', digest: numbers.digest, profile: 'exact' } as const
    expect(await cluster.serving.unloadModel([order], 2_500)).toEqual([
      { deviceId: 'gpu-0', profile: 'exact', error: null },
    ])
    expect(gpu.commands).toEqual([
      {
        $case: 'unloadModel',
        value: { digest: numbers.digest, profile: Profile.EXACT, deadlineMs: 2_500 },
      },
    ])
  })
})

describe('numerics', () => {
  const serve = async (fields: Parameters<typeof testRequest>[0], onToken?: (count: number) => void) => {
    const request = testRequest(fields)
    const gathered = await gather(cluster.serving.submit(request), onToken)
    expect(gathered.ids).toEqual(fakeTokens(prompt, request.maxTokens))
    return cluster.serving.request(request.requestId)
  }

  test('asked for are those of every call, and of the report', async () => {
    const gpu = await cluster.device({
      deviceId: 'gpu-0',
      capabilities: GPU,
      models: [numbers, paperNumbers],
    })
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA, models: [paperNumbers] })
    const report = await serve({ profile: 'paper', mergeLayers: 4 })
    expect(report).toMatchObject({ profile: 'paper', numericsChanged: false })
    expect(report?.placements).toMatchObject([
      { prefillDevice: 'gpu-0', decodeDevice: 'fpga-0', profile: 'paper', numerics: 'w4a8+kv8' },
    ])
    expect(fpga.reserves[0]?.profile).toBe(Profile.PAPER)
    expect(gpu.prefills[0]?.sequence?.profile).toBe(Profile.PAPER)
    expect(fpga.decodes[0]?.sequence?.profile).toBe(Profile.PAPER)
    expect(fpga.decodes[0]?.source?.mergeLayers).toBe(4)
    // Exact ones are where only the GPU is.
    const exact = await serve({ profile: 'exact' })
    expect(exact?.placements).toMatchObject([{ decodeDevice: 'gpu-0', profile: 'exact', numerics: 'f32' }])
  })

  test('of the paper are served exactly where no device has them, which is no change', async () => {
    await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    const report = await serve({ profile: 'paper' })
    expect(report).toMatchObject({ profile: 'paper', numericsChanged: false })
    expect(report?.placements).toMatchObject([{ profile: 'exact' }])
    expect(report?.placements[0]?.reason).toContain('profile exact')
  })

  test('change where a device of the paper’s is lost in mid-stream, and each token comes once', async () => {
    await cluster.device({ deviceId: 'gpu-0', capabilities: GPU, models: [numbers] })
    const paperGpu = { deviceId: 'gpu-1', capabilities: GPU, models: [paperNumbers] }
    await cluster.device(paperGpu)
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA, models: [paperNumbers] })
    fpga.stepMs = 5
    const report = await serve({ profile: 'paper', maxTokens: 60 }, (count) => {
      if (count === 10) void fpga.kill()
    })
    expect(report?.placements.map(({ decodeDevice }) => decodeDevice)).toEqual(['fpga-0', 'gpu-1'])
    expect(report?.numericsChanged).toBe(true)
  })

  test('do not change in exact ones, also where a device is lost', async () => {
    await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    fpga.stepMs = 5
    const report = await serve({ maxTokens: 60 }, (count) => {
      if (count === 10) void fpga.kill()
    })
    expect(report?.placements).toHaveLength(2)
    expect(report?.numericsChanged).toBe(false)
  })

  test('change in exact ones where a device with numbers of its own goes on', async () => {
    const own = { ...numbers, numerics: 'f32@webgpu' }
    await cluster.device({ deviceId: 'gpu-0', capabilities: GPU, models: [own] })
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    fpga.stepMs = 5
    const report = await serve({ maxTokens: 60 }, (count) => {
      if (count === 10) void fpga.kill()
    })
    expect(report?.placements.map(({ numerics }) => numerics)).toEqual(['f32', 'f32@webgpu'])
    expect(report?.numericsChanged).toBe(true)
  })

  test('that are exact are not served by devices of others', async () => {
    await cluster.device({ deviceId: 'gpu-0', capabilities: GPU, models: [paperNumbers] })
    await cluster.device({ deviceId: 'host-0', capabilities: HOST, models: [] })
    expect(cluster.serving.modelTraits(numbers.digest)?.profiles).toEqual(['paper'])
    await expect(gather(cluster.serving.submit(testRequest()))).rejects.toMatchObject({ code: 'unavailable' })
  })
})
