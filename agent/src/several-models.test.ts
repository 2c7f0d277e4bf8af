/** One device with several models over real gRPC: loaded and unloaded while others are served, each with its own text. */
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import { deferred } from '@kvasir/runtime/deferred'
import { KvasirError, LeaseExpiredError, NotFoundError, UnavailableError } from '@kvasir/runtime/errors'
import { callUnary } from '@kvasir/runtime/rpc-client'
import { afterEach, describe, expect, it } from 'vitest'
import type { DriverFactory } from './definition.js'
import type { KvChange } from './kv-index.js'
import type { WantedModel } from './model-arrival.js'
import type { ServedModel } from './served-model.js'
import { expectedTokens, FAKE_MODEL, fakeFactory } from './testing/fake-driver.js'
import {
  promptOf,
  readDecode,
  readPrefill,
  TestClient,
  TestDevice,
  type TestDeviceOptions,
} from './testing/test-devices.js'

const OTHER = `${FAKE_MODEL}-b`
const PAPER: WantedModel['profile'] = 'PROFILE_PAPER'
const cleanups: (() => unknown)[] = []

afterEach(async () => {
  await Promise.all(cleanups.splice(0).map((clean) => clean()))
})

async function start(options: Partial<TestDeviceOptions> = {}): Promise<TestDevice> {
  const device = await TestDevice.start({ deviceId: 'npu-0', ...options })
  cleanups.push(() => device.stop())
  return device
}

const wanted = (model: string, more: Partial<WantedModel> = {}): WantedModel => ({
  ...{ model, digest: '', profile: 'PROFILE_EXACT', kvBytes: undefined, peersMs: 0 },
  ...more,
})

async function load(device: TestDevice, model: WantedModel): Promise<ServedModel> {
  await (await device.serving.load(model)).served.promise
  const served = device.serving.device.models.all.at(-1)
  if (served === undefined) throw new Error('Nothing is served')
  return served
}

/** What a coordinator does with one of the device's models. */
function clientOf(device: TestDevice, { model, profile }: ServedModel): TestClient {
  const { deviceId } = device.serving.device
  const { control, kv } = device.serving
  const client = new TestClient(deviceId, control.address, kv.address, model.digest, profile)
  cleanups.push(() => client.close())
  return client
}

async function generate(client: TestClient, id: string, prompt: number[], maxTokens = 20): Promise<number[]> {
  const lease = await client.reserve(id, prompt.length + maxTokens)
  return (await readDecode(client.decode(id, lease, prompt, { maxTokens }))).tokens
}

function changedDriver(change: (device: DeviceDriver) => void): DriverFactory {
  return {
    async create(options) {
      const device = await fakeFactory().create(options)
      change(device)
      return device
    },
  }
}

/** Every model has the same weights. */
const oneDigest = changedDriver((device) => {
  const inspectModel = device.inspectModel.bind(device)
  device.inspectModel = async (options) => {
    const { digest } = await inspectModel({ ...options, model: FAKE_MODEL })
    return { ...(await inspectModel(options)), digest }
  }
})

async function failureOf(work: Promise<unknown>): Promise<KvasirError> {
  const outcome = await work.then(
    () => undefined,
    (error: unknown) => error,
  )
  if (outcome instanceof KvasirError) return outcome
  throw new Error('It did not fail')
}

describe('a device with several models', () => {
  it('serves each its own text at the same time, with leases that are never mixed up', async () => {
    const device = await start()
    const other = clientOf(device, await load(device, wanted(OTHER)))
    const prompts = Array.from({ length: 6 }, (_, i) => promptOf(20 + 7 * i, i))
    const texts = await Promise.all(
      prompts.flatMap((prompt, i) => [device, other].map((client) => generate(client, `both-${i}`, prompt))),
    )
    expect(texts).toEqual(
      prompts.flatMap((prompt) => [expectedTokens(prompt, 20), expectedTokens(prompt, 20)]),
    )
    const [mine, theirs] = await Promise.all([device.reserve('mine', 20), other.reserve('theirs', 20)])
    expect(mine.counter).not.toBe(theirs.counter)
    const mixed = other.decode('mine', mine, promptOf(10), { maxTokens: 2 })
    expect(await failureOf(readDecode(mixed))).toBeInstanceOf(LeaseExpiredError)
    await callUnary(device.kv, 'release', { lease: mine })
    await callUnary(device.kv, 'release', { lease: theirs })
    await device.empty()
  })

  it('advertises each, with sums for those that know of one model only', async () => {
    const device = await start({ blocks: 10, farBlocks: 10 })
    const before = device.serving.advertisement()
    const reported = device.serving.loadReport(1n)
    expect(reported.models).toHaveLength(1)
    expect(reported.models[0]).toMatchObject({ tiers: reported.tiers, leases: reported.leases })
    const { model } = await load(device, wanted(OTHER, { kvBytes: 5 * 768 }))
    const { models, tiers, modelBytes } = device.serving.advertisement()
    expect(models.map(({ name, numerics, profile }) => ({ name, numerics, profile }))).toEqual([
      { name: FAKE_MODEL, numerics: 'f32@fake', profile: 'PROFILE_EXACT' },
      { name: OTHER, numerics: 'f32@fake', profile: 'PROFILE_EXACT' },
    ])
    expect(models[1]).toMatchObject({
      digest: model.digest,
      poolBytesPerToken: 48n,
      residentBytes: 4_000n,
      tiers: [
        { name: 'hbm', capacityBytes: 3_840n },
        { name: 'ddr', capacityBytes: 7_680n },
      ],
    })
    expect(models[1]?.compute[0]?.peakOpsPerSecond).toBeGreaterThan(0)
    expect(tiers.map(({ capacityBytes }) => capacityBytes)).toEqual([
      (before.tiers[0]?.capacityBytes ?? 0n) + 3_840n,
      (before.tiers[1]?.capacityBytes ?? 0n) + 7_680n,
    ])
    const report = device.serving.loadReport(2n)
    expect(report.tiers.map(({ capacityBytes }) => capacityBytes)).toEqual(
      tiers.map(({ capacityBytes }) => capacityBytes),
    )
    expect(report.modelBytesUsed).toBe(8_000n + 15_360n + 11_520n)
    expect(modelBytes).toBeGreaterThan(1_000_000n)
  })

  it('says by name what it does not have, and what to do', async () => {
    const device = await start()
    const stranger = new TestClient(
      'npu-0',
      device.serving.control.address,
      device.serving.kv.address,
      'ab'.repeat(32),
    )
    cleanups.push(() => stranger.close())
    const missing = await failureOf(stranger.reserve('stranger', 20))
    expect(missing).toBeInstanceOf(NotFoundError)
    expect(missing.message).toContain(`abababababababab (it serves ${FAKE_MODEL})`)
    const paper = new TestClient(
      'npu-0',
      device.serving.control.address,
      device.serving.kv.address,
      device.serving.device.models.all[0]?.model.digest ?? '',
      PAPER,
    )
    cleanups.push(() => paper.close())
    const other = await failureOf(paper.reserve('paper', 20))
    expect(other.message).toContain(`kvasir models load ${FAKE_MODEL} --device npu-0 --profile paper`)
  })

  it('serves one model in two profiles, whose KV is not taken for one another', async () => {
    const device = await start()
    const paper = await load(device, wanted(FAKE_MODEL, { profile: PAPER }))
    expect(paper.variant).toMatchObject({ numerics: PAPER, dtype: 'PRECISION_INT8' })
    const client = clientOf(device, paper)
    const prompt = promptOf(40)
    const [exact, quantised] = await Promise.all([
      generate(device, 'two', prompt),
      generate(client, 'two', prompt),
    ])
    expect(quantised).toEqual(exact)
    const { parts } = device.serving.device.index.snapshot()
    expect(parts.map(({ variant, hashes }) => [variant.dtype, hashes.length])).toEqual([
      ['PRECISION_F32', 3],
      ['PRECISION_INT8', 3],
    ])
    expect(new Set(parts.flatMap(({ hashes }) => hashes)).size).toBe(3)
  })

  it('begins empty where no model is named, refuses work, and takes a model in later', async () => {
    const device = await start({ model: null })
    expect(device.serving.advertisement()).toMatchObject({ models: [], tiers: [{ capacityBytes: 0n }] })
    expect(device.serving.loadReport(1n)).toMatchObject({ models: [], tiers: [], leases: 0 })
    expect((await failureOf(device.reserve('early', 20))).message).toContain('model_digest is missing')
    const client = clientOf(device, await load(device, wanted(FAKE_MODEL)))
    expect(await generate(client, 'late', promptOf(30))).toEqual(expectedTokens(promptOf(30), 20))
  })
})

describe('loading', () => {
  it('of what does not fit is refused at once, with what it needs and what is lacking', async () => {
    // 4,000 bytes of weights and 768 × 10 for KV, twice.
    const device = await start({ blocks: 10, modelBytes: 20_000 })
    const refused = await failureOf(device.serving.load(wanted(OTHER)).then(({ served }) => served.promise))
    expect(refused).toMatchObject({ code: 'overloaded', param: 'modelBytes' })
    expect(refused.message).toBe(
      `The model ${OTHER} needs 11.7 kB on device npu-0: 4 kB for weights in f32 and 7.68 kB for KV. Models may take 20 kB there, of which 8.32 kB are free, so 3.36 kB are lacking; unload another model, choose a smaller model, give its KV fewer bytes, or raise modelBytes where the machine has more.`,
    )
    expect(device.serving.loadReport(1n)).toMatchObject({ arrivals: [], modelBytesUsed: 11_680n })
    const fits = await load(device, wanted(OTHER, { kvBytes: 768 }))
    expect(fits.bytes).toBe(4_768)
    await expect(start({ blocks: 10, modelBytes: 1_000 })).rejects.toThrow('so 10.7 kB are lacking')
  })

  it('of what is loaded already, or is on its way, is no second one', async () => {
    const device = await start()
    const [first, second] = await Promise.all([1, 2].map(() => device.serving.load(wanted(OTHER))))
    await Promise.all([first?.served.promise, second?.served.promise])
    await load(device, wanted(OTHER))
    expect(device.serving.device.models.all.map(({ model }) => model.name)).toEqual([FAKE_MODEL, OTHER])
    expect(device.serving.loadReport(1n).arrivals).toEqual([])
  })

  it('of what is here under another name says that name', async () => {
    const device = await start({ real: { model: FAKE_MODEL, driver: oneDigest } })
    const refused = await failureOf(device.serving.load(wanted(OTHER)))
    expect(refused).toMatchObject({ code: 'invalid_input', param: 'model' })
    expect(refused.message).toBe(
      `Device npu-0 has the model ${OTHER} already, under the name ${FAKE_MODEL}: ask for that, or unload it first.`,
    )
    expect(device.serving.loadReport(1n).arrivals).toEqual([])
  })

  it('that was called off in its middle does not take along the one after it', async () => {
    const loading = deferred<void>()
    const held = deferred<void>()
    const driver = changedDriver((device) => {
      const loadModel = device.loadModel.bind(device)
      device.loadModel = async (options) => {
        if (options.model === OTHER && !loading.settled) {
          loading.resolve()
          await held.promise
        }
        return loadModel(options)
      }
    })
    // There is room for it once.
    const device = await start({ blocks: 10, modelBytes: 24_000, real: { model: FAKE_MODEL, driver } })
    const first = await device.serving.load(wanted(OTHER))
    await loading.promise
    await device.serving.unload({ digest: first.digest, profile: 'PROFILE_EXACT', deadlineMs: 0 })
    const again = device.serving.load(wanted(OTHER))
    await expect.poll(() => device.serving.loadReport(1n).arrivals).toHaveLength(2)
    held.resolve()
    expect(await failureOf(first.served.promise)).toMatchObject({ code: 'cancelled' })
    await (await again).served.promise
    expect(device.serving.device.models.all.map(({ model }) => model.name)).toEqual([FAKE_MODEL, OTHER])
  })

  it('of what does not fit is refused to all that ask for it at the same time', async () => {
    const device = await start({ blocks: 10, modelBytes: 20_000 })
    const refused = await Promise.all([1, 2].map(() => failureOf(device.serving.load(wanted(OTHER)))))
    expect(refused.map(({ code }) => code)).toEqual(['overloaded', 'overloaded'])
  })

  it('that fails says so for a while, and leaves the memory free', async () => {
    const device = await start()
    const used = device.serving.loadReport(1n).modelBytesUsed
    const failure = await failureOf(device.serving.load(wanted('nobody-has-it')))
    expect(failure.message).toContain('nobody-has-it')
    expect(device.serving.loadReport(1n)).toMatchObject({ modelBytesUsed: used, arrivals: [] })
  })
})

describe('unloading', () => {
  it('refuses new work, lets what runs end, and tells what is gone', async () => {
    const changes: KvChange[] = []
    const held = deferred<void>()
    const reached = deferred<void>()
    let armed = false
    const device = await start({
      onKvChange: (change) => changes.push(change),
      fake: {
        async beforeLayer() {
          await new Promise((resolve) => setImmediate(resolve))
          if (!armed) return
          reached.resolve()
          await held.promise
        },
      },
    })
    const served = await load(device, wanted(OTHER))
    const other = clientOf(device, served)
    await generate(other, 'before', promptOf(48))
    const prompt = promptOf(40, 3)
    const lease = await other.reserve('running', 80)
    armed = true
    const running = readDecode(other.decode('running', lease, prompt, { maxTokens: 12 }))
    await reached.promise
    const gone = device.serving.unload({ ...served.model, profile: 'PROFILE_EXACT', deadlineMs: 10_000 })
    const again = device.serving.unload({ ...served.model, profile: 'PROFILE_EXACT', deadlineMs: 10_000 })
    expect(device.serving.advertisement().models.map(({ name }) => name)).toEqual([FAKE_MODEL])
    const refused = await failureOf(other.reserve('late', 20))
    expect(refused).toBeInstanceOf(UnavailableError)
    expect(refused.message).toContain(`is unloading ${OTHER}`)
    const waiting = await failureOf(readPrefill(other.prefill('late', promptOf(8))))
    expect(waiting).toMatchObject({ code: 'unavailable' })
    armed = false
    held.resolve()
    expect((await running).tokens).toEqual(expectedTokens(prompt, 12))
    await Promise.all([gone, again])
    expect(device.serving.device.models.all.map(({ model }) => model.name)).toEqual([FAKE_MODEL])
    expect(device.serving.loadReport(1n).modelBytesUsed).toBe(4_000n + 256n * 768n)
    const hashes = other.hashes(promptOf(48))
    expect(device.serving.device.index.snapshot().parts.flatMap((part) => part.hashes)).toEqual([])
    expect(changes.flatMap(({ removed }) => removed)).toEqual(expect.arrayContaining([...hashes]))
    // Its leases are over, and those of the other model are not.
    const release = await failureOf(callUnary(device.kv, 'release', { lease }))
    expect(release).toBeInstanceOf(LeaseExpiredError)
    expect(await generate(device, 'after', prompt)).toEqual(expectedTokens(prompt, 20))
  })

  it('ends at its deadline what does not end by itself, to be placed elsewhere', async () => {
    const device = await start()
    const served = await load(device, wanted(OTHER))
    const other = clientOf(device, served)
    const lease = await other.reserve('endless', 2_000)
    const stream = other.decode('endless', lease, promptOf(20), { maxTokens: 1_900 })
    const undisturbed = generate(device, 'undisturbed', promptOf(30), 300)
    await stream.next()
    const gone = device.serving.unload({ ...served.model, profile: 'PROFILE_EXACT', deadlineMs: 30 })
    const failure = await failureOf(readDecode(stream))
    expect(failure).toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining(`unloaded ${OTHER}`),
    })
    await gone
    expect(await undisturbed).toEqual(expectedTokens(promptOf(30), 300))
  })

  it('is waited for by who wants the model back, until its memory is free', async () => {
    const unloading = deferred<void>()
    const held = deferred<void>()
    const device = await start({
      ...{ blocks: 10, modelBytes: 24_000 },
      fake: {
        beforeUnloaded() {
          unloading.resolve()
          return held.promise
        },
      },
    })
    const served = await load(device, wanted(OTHER))
    const gone = device.serving.unload({ ...served.model, profile: 'PROFILE_EXACT', deadlineMs: 0 })
    await unloading.promise
    const arrival = device.serving.load(wanted(OTHER))
    await expect.poll(() => device.serving.loadReport(1n).arrivals).toHaveLength(1)
    held.resolve()
    await gone
    await (await arrival).served.promise
    expect(device.serving.device.models.all.map(({ model }) => model.name)).toEqual([FAKE_MODEL, OTHER])
  })

  it('makes room for another, and of what is not there is an error', async () => {
    const device = await start({ blocks: 10, modelBytes: 24_000 })
    const served = await load(device, wanted(OTHER))
    const third = wanted(`${FAKE_MODEL}-c`)
    expect(await failureOf(device.serving.load(third))).toMatchObject({ code: 'overloaded' })
    await device.serving.unload({ ...served.model, profile: 'PROFILE_EXACT', deadlineMs: 0 })
    const client = clientOf(device, await load(device, third))
    expect(await generate(client, 'third', promptOf(20))).toEqual(expectedTokens(promptOf(20), 20))
    expect(() => device.serving.unload({ ...served.model, profile: 'PROFILE_EXACT', deadlineMs: 0 })).toThrow(
      NotFoundError,
    )
  })
})

describe('profile paper', () => {
  it('goes from a device that computes in float to one that computes in few bits, in 8 bits', async () => {
    const [gpu, fpga] = await Promise.all([
      start({ deviceId: 'gpu-0', profile: 'paper' }),
      start({ deviceId: 'fpga-0', profile: 'paper', paperNumerics: 'quantised' }),
    ])
    expect(gpu.serving.advertisement().models).toMatchObject([
      { numerics: 'f32+wire8@fake', profile: PAPER, kvBytesPerToken: 36n, poolBytesPerToken: 48n },
    ])
    expect(fpga.serving.advertisement().models).toMatchObject([
      { numerics: 'w4a8+kv8@fake', profile: PAPER, kvBytesPerToken: 36n, poolBytesPerToken: 36n },
    ])
    // Its last block has tokens of an earlier owner behind its own.
    await generate(gpu, 'earlier', promptOf(64))
    gpu.serving.device.holder.evict(true)
    const prompt = promptOf(37, 2)
    const lease = await fpga.reserve('paper', 60)
    const decoded = readDecode(fpga.decode('paper', lease, prompt, { maxTokens: 9, from: gpu.source }))
    const prefilled = await readPrefill(gpu.prefill('paper', prompt))
    expect((await decoded).tokens).toEqual(expectedTokens(prompt, 9).slice(1))
    // Three blocks of three layers, 192 bytes each.
    expect(prefilled.at(-1)).toMatchObject({ $case: 'kvSent', value: { bytes: 1_728n } })
    expect((await decoded).started?.kvBytes).toBe(1_728n)
  })

  it('does not take KV of profile exact', async () => {
    const [exact, paper] = await Promise.all([
      start({ deviceId: 'gpu-0' }),
      start({ deviceId: 'fpga-0', profile: 'paper', paperNumerics: 'quantised' }),
    ])
    const prompt = promptOf(33)
    const lease = await paper.reserve('mixed', 60)
    const decoded = failureOf(
      readDecode(paper.decode('mixed', lease, prompt, { maxTokens: 9, from: exact.source })),
    )
    await readPrefill(exact.prefill('mixed', prompt)).catch(() => {})
    expect((await decoded).ids).toMatchObject({ deviceId: 'gpu-0' })
    await Promise.all([exact.empty(), paper.empty()])
  })
})
