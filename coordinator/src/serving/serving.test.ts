/**
 * The serving side against fake devices over real gRPC and a real nats-server.
 */
import { withDeadline } from '@kvasir/runtime/deferred'
import { OverloadedError, UnavailableError, UnreachableError } from '@kvasir/runtime/errors'
import { startNatsServer, type TestNatsServer } from '@kvasir/runtime/testing/nats-server'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { breakTransfers, fakeTokens } from './testing/fake-device.js'
import {
  FPGA,
  GPU,
  gather,
  startDefaultDevices,
  startTestCluster,
  type TestCluster,
  testRequest,
  until,
  untilIdle,
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
  cluster = await startTestCluster(nats, { placementDeadlineMs: 1_000, queuedMax: 2 })
})
afterEach(async () => {
  await cluster.close()
})

const prompt = [1, 2, 3, 4, 5]

describe('a request', () => {
  test('is prefilled on the GPU, decoded on an FPGA, and reported', async () => {
    const { gpu, fpgas } = await startDefaultDevices(cluster)
    const request = testRequest({ maxTokens: 20 })
    const gathered = await gather(cluster.serving.submit(request))
    expect(gathered).toEqual({ ids: fakeTokens(prompt, 20), reason: 'length' })
    const report = cluster.serving.request(request.requestId)
    expect(report).toMatchObject({
      state: 'finished',
      finishReason: 'length',
      promptTokens: 5,
      completionTokens: 20,
      placements: [{ epoch: 1, prefillDevice: 'gpu-0', decodeDevice: 'fpga-0' }],
      kv: { bytes: 320, chunks: 2, overlap: 0.9, bytesPerSecond: 400_000 },
    })
    expect(report?.measured.ttftMs).toBeGreaterThan(0)
    expect(gpu.prefills[0]?.transferId).toBe(`${request.requestId}.1`)
    await untilIdle(gpu, ...fpgas)
  })

  test('leaves its times and its devices for calibration, and nothing of what was said', async () => {
    const { gpu, fpgas } = await startDefaultDevices(cluster)
    const request = testRequest({ maxTokens: 20 })
    await gather(cluster.serving.submit(request))
    const { devices, completions } = cluster.serving.completions()
    expect(devices.map(({ deviceId }) => deviceId)).toEqual(['gpu-0', 'fpga-0'])
    expect(completions).toMatchObject([
      {
        requestId: request.requestId,
        record: { prefill: { deviceId: 'gpu-0', tokens: 5 }, decode: { deviceId: 'fpga-0' } },
        predicted: { ttftMs: expect.any(Number), tpotMs: expect.any(Number) },
        measured: { ttftMs: expect.any(Number), tpotMs: expect.any(Number) },
      },
    ])
    await untilIdle(gpu, ...fpgas)
  })

  test('leaves its share of the steps where the agent tells it, and is shown the time that they took', async () => {
    const { gpu, fpgas } = await startDefaultDevices(cluster)
    const learned = async () => {
      const request = testRequest({ maxTokens: 2, promptTokens: Array.from({ length: 20 }, (_, at) => at) })
      await gather(cluster.serving.submit(request))
      const shown = cluster.serving.request(request.requestId)?.stages.find(({ stage }) => stage === 'apply')
      const kept = cluster.serving.completions().completions.at(-1)
      return [kept?.record.prefill?.computeMs, shown?.measuredMs]
    }
    gpu.prefillTimes = { computeUs: 9_000n, computeShareUs: 3_000n }
    expect(await learned()).toEqual([3, 9])
    // An agent that does not know of shares.
    gpu.prefillTimes = { computeUs: 9_000n }
    expect(await learned()).toEqual([9, 9])
    await untilIdle(gpu, ...fpgas)
  })

  test('shows what was retrieved for it to its own tenant alone, while it runs and after', async () => {
    const { fpgas } = await startDefaultDevices(cluster)
    const tenantSalt = Buffer.from('anna')
    const document = { id: 'd1', title: 'A secret', score: 1 }
    const retrieval = { corpus: 'tales', k: 1, documents: [document], stages: [] }
    const request = testRequest({ tenantSalt, retrieval, maxTokens: 20 })
    const seen = (salt?: Uint8Array) => cluster.serving.request(request.requestId, salt)?.retrieval
    const expectPrivate = () => {
      expect(seen(new Uint8Array(tenantSalt))).toEqual(retrieval)
      for (const other of [undefined, new Uint8Array(), Buffer.from('bert')]) expect(seen(other)).toBeNull()
    }
    const generation = cluster.serving.submit(request)
    expectPrivate()
    await gather(generation)
    expectPrivate()
    await untilIdle(...fpgas)
  })

  test('shares slots: the GPU decodes what the FPGAs have no room for', async () => {
    const gpu = await cluster.device({ deviceId: 'gpu-0', capabilities: GPU })
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA, decodeSlots: 1 })
    fpga.stepMs = 20
    const slow = gather(cluster.serving.submit(testRequest({ maxTokens: 20 })))
    const request = testRequest({ maxTokens: 10 })
    const gathered = await gather(cluster.serving.submit(request))
    expect(gathered.ids).toEqual(fakeTokens(prompt, 10))
    expect(cluster.serving.request(request.requestId)?.placements).toMatchObject([
      { prefillDevice: 'gpu-0', decodeDevice: 'gpu-0' },
    ])
    expect(gpu.decodes[0]?.source).toBeUndefined()
    await slow
    await untilIdle(gpu, fpga)
  })

  test('for one token, or whose first token ends it, stops the decoder', async () => {
    const { gpu, fpgas } = await startDefaultDevices(cluster)
    const one = await gather(cluster.serving.submit(testRequest({ maxTokens: 1 })))
    expect(one).toEqual({ ids: fakeTokens(prompt, 1), reason: 'length' })
    gpu.stopIndex = 0
    const none = await gather(cluster.serving.submit(testRequest()))
    expect(none).toEqual({ ids: [], reason: 'stop' })
    await untilIdle(gpu, ...fpgas)
  })

  test('that is cancelled frees everything within a second', async () => {
    const { gpu, fpgas } = await startDefaultDevices(cluster)
    for (const fpga of fpgas) fpga.stepMs = 20
    const request = testRequest({ maxTokens: 1_000 })
    const generation = cluster.serving.submit(request)
    const gathered = await gather(generation, (count) => {
      if (count === 3) generation.cancel('client-gone')
    })
    expect(gathered.reason).toBeNull()
    await untilIdle(gpu, ...fpgas)
    expect(cluster.serving.request(request.requestId)).toMatchObject({ state: 'cancelled' })

    const left = cluster.serving.submit(testRequest({ maxTokens: 1_000 }))
    for await (const event of left.events) if (event.type === 'tokens') break
    await untilIdle(gpu, ...fpgas)
  })

  test('that is cancelled while memory is being reserved releases it', async () => {
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    const generation = cluster.serving.submit(testRequest())
    generation.cancel('client-gone')
    await until('the reservation was made', () => fpga.reservations > 0)
    await untilIdle(fpga)
    expect(fpga.decodes).toHaveLength(0)
  })
})

describe('a lost or refusing device', () => {
  test('killed while it decodes: the stream goes on from the next token', async () => {
    const { gpu, fpgas } = await startDefaultDevices(cluster)
    for (const fpga of fpgas) fpga.stepMs = 5
    const request = testRequest({ maxTokens: 60 })
    const gathered = await gather(cluster.serving.submit(request), (count) => {
      if (count === 10) void fpgas[0]?.kill()
    })
    expect(gathered).toEqual({ ids: fakeTokens(prompt, 60), reason: 'length' })
    const report = cluster.serving.request(request.requestId)
    expect(report?.placements.map(({ decodeDevice }) => decodeDevice)).toEqual(['fpga-0', 'fpga-1'])
    expect(report?.placements[1]?.reason).toContain('Placed again because fpga-0 was lost')
    expect(gpu.prefills[1]?.tokens.length).toBe(prompt.length + (gpu.prefills[1]?.firstIndex ?? 0))
    await untilIdle(gpu, ...fpgas)
  })

  test('killed while it prefills: another one does it', async () => {
    const { gpu, fpgas } = await startDefaultDevices(cluster)
    gpu.onPrefill = async () => {
      await gpu.kill()
      breakTransfers(cluster.transfers, new UnreachableError('The sender is gone.'))
    }
    const gathered = await gather(cluster.serving.submit(testRequest({ maxTokens: 10 })))
    expect(gathered.ids).toEqual(fakeTokens(prompt, 10))
    await untilIdle(...fpgas)
  })

  test('restarted: its next life is used', async () => {
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    fpga.stepMs = 5
    const gathering = gather(cluster.serving.submit(testRequest({ maxTokens: 40 })), (count) => {
      if (count === 5) void fpga.kill()
    })
    await until('the device is gone', () => cluster.serving.cluster().devices[0]?.state === 'lost')
    await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA })
    expect((await gathering).ids).toEqual(fakeTokens(prompt, 40))
  })

  test('refusing to reserve: the next best is asked', async () => {
    const { gpu, fpgas } = await startDefaultDevices(cluster)
    for (const fpga of fpgas) {
      fpga.onReserve = () => {
        throw new OverloadedError('Every slot is taken.', { retryAfterMs: 100 })
      }
    }
    const request = testRequest()
    expect((await gather(cluster.serving.submit(request))).ids).toEqual(fakeTokens(prompt, 8))
    expect(cluster.serving.request(request.requestId)?.placements.at(-1)?.decodeDevice).toBe('gpu-0')
    await untilIdle(gpu, ...fpgas)
  })

  test('taking its memory back: the request is placed anew', async () => {
    const { gpu, fpgas } = await startDefaultDevices(cluster)
    const [first] = fpgas
    if (first) first.preemptIndex = 4
    const gathered = await gather(cluster.serving.submit(testRequest({ maxTokens: 12 })))
    expect(gathered.ids).toEqual(fakeTokens(prompt, 12))
    await untilIdle(gpu, ...fpgas)
  })
})

describe('the queue', () => {
  test('is bounded, and gives up in time with a pause to wait', async () => {
    const waiting = [testRequest(), testRequest()].map((request) => gather(cluster.serving.submit(request)))
    expect(() => cluster.serving.submit(testRequest())).toThrow(UnavailableError)
    const results = await withDeadline(
      Promise.allSettled(waiting),
      3_000,
      'waiting for the placement deadline',
    )
    for (const result of results) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { code: 'unavailable', retryAfterMs: 1_000 },
      })
    }
    expect(cluster.serving.models().flatMap(({ servedProfiles }) => servedProfiles)).toEqual([])
  })

  test('sheds what is least urgent when it is full', async () => {
    const [low, plain] = [testRequest({ priority: -1 }), testRequest()]
    const lowGathered = gather(cluster.serving.submit(low))
    const plainGathered = gather(cluster.serving.submit(plain))
    const urgentGathered = gather(cluster.serving.submit(testRequest({ priority: 5 })))
    await expect(lowGathered).rejects.toMatchObject({
      code: 'overloaded',
      shed: 'priority',
      retryAfterMs: 1_000,
    })
    const report = cluster.serving.request(low.requestId)
    expect(report).toMatchObject({ state: 'failed', admission: { priority: -1, waitedMs: null } })
    await Promise.allSettled([plainGathered, urgentGathered])
  })

  test('gives up what has missed its deadline, before any device has worked on it', async () => {
    const request = testRequest({ ttftDeadlineMs: 20 })
    const gathered = gather(cluster.serving.submit(request))
    await expect(gathered).rejects.toMatchObject({ shed: 'missed', message: /may take 20 ms; try again/ })
    expect(cluster.serving.request(request.requestId)).toMatchObject({
      placements: [],
      admission: { ttftDeadlineMs: 20, reason: 'It was given no place.' },
    })
  })

  test('drains: refuses what is new and fails what does not end', async () => {
    const fpga = await cluster.device({ deviceId: 'fpga-0', capabilities: FPGA, stepMs: 20 })
    expect(cluster.serving.models()).toMatchObject([{ name: 'numbers', servedProfiles: ['exact', 'paper'] }])
    const short = gather(cluster.serving.submit(testRequest({ maxTokens: 5 })))
    const long = gather(cluster.serving.submit(testRequest({ maxTokens: 2_000 })))
    const failure = expect(long).rejects.toMatchObject({ code: 'unavailable' })
    const drained = cluster.serving.drain(1_500)
    expect(() => cluster.serving.submit(testRequest())).toThrow('shutting down')
    expect((await short).reason).toBe('length')
    await drained
    await failure
    await untilIdle(fpga)
  })
})
