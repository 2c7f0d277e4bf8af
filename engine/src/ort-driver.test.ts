import type { Worker } from 'node:worker_threads'
import { deferred } from '@kvasir/runtime/deferred'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { DeviceDriver } from './device-driver.js'
import { EXACT } from './numerics.js'
import { createOrtDriver } from './ort-driver.js'
import { type LoadedDriver, loadedDriver } from './testing/loaded-driver.js'

/** The workers that drivers started, to end one as a crash would. */
const workers: Worker[] = []
vi.mock('node:worker_threads', async (original) => {
  const actual = await original<typeof import('node:worker_threads')>()
  class RecordedWorker extends actual.Worker {
    constructor(...options: ConstructorParameters<typeof actual.Worker>) {
      super(...options)
      workers.push(this)
    }
  }
  return { ...actual, Worker: RecordedWorker }
})

const drivers: Pick<DeviceDriver, 'close'>[] = []
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close()
})

async function openDriver(model: string): Promise<LoadedDriver> {
  const driver = await loadedDriver(model, 64)
  drivers.push(driver)
  return driver
}
const tinyDriver = () => openDriver('dummy:llama-tiny')

const range = (from: number, count: number) => Uint32Array.from({ length: count }, (_, i) => from + i)
const part = (blocks: Uint32Array, start: number, length: number) => ({
  blocks,
  start,
  tokens: Uint32Array.from({ length }, (_, i) => ((start + i) * 3) % 512),
  wantLogits: true,
})

describe('KV blocks', () => {
  it('go from one driver to another layer by layer, and decoding goes on with the same bits', async () => {
    const [from, to] = [await tinyDriver(), await tinyDriver()]
    const blocks = range(3, 4)
    const moved: Promise<void>[] = []
    await from.step([part(blocks, 0, 50)], (layer) => {
      moved.push(
        from.readBlocks(layer, blocks).then((data) => to.writeBlocks(layer, range(40, 4).reverse(), data)),
      )
    })
    expect(moved).toHaveLength(3)
    await Promise.all(moved)
    const [here] = [await from.step([part(blocks, 50, 1)])]
    const there = await to.step([part(range(40, 4).reverse(), 50, 1)])
    expect(there.logits).toEqual(here.logits)
  })

  it('are read while the step still runs', async () => {
    const driver = await openDriver('skald')
    const order: string[] = []
    let reads: Promise<unknown> = Promise.resolve()
    await driver
      .step([part(range(0, 32), 0, 500)], (layer) => {
        if (layer === 0) reads = driver.readBlocks(0, range(0, 32)).then(() => order.push('read'))
      })
      .then(() => order.push('stepped'))
    await reads
    expect(order).toEqual(['read', 'stepped'])
  })

  it('are scored and attended to while the step still runs, between its layers', async () => {
    const driver = await openDriver('skald')
    const order: string[] = []
    const q = new Float32Array(6 * 32).fill(0.1)
    const kernels: Promise<unknown>[] = []
    await driver
      .step([part(range(0, 32), 0, 500)], (layer) => {
        const choice = {
          layer: 0,
          q,
          blocks: range(40, 8),
          pages: 2,
          rivals: new Float32Array(0),
          attend: true,
        }
        if (layer > 1) return
        kernels.push(driver.runKernel('choose-pages', choice).then(() => order.push(`kernel ${layer}`)))
      })
      .then(() => order.push('stepped'))
    await Promise.all(kernels)
    expect(order).toEqual(['kernel 0', 'kernel 1', 'stepped'])
  })

  it('come back as they were written, also from a part of a larger buffer', async () => {
    const driver = await tinyDriver()
    const bytes = 2 * 2 * 16 * 32 * 4
    const buffer = Uint8Array.from({ length: bytes * 2 + 8 }, (_, i) => i % 251)
    const data = buffer.subarray(8)
    const expected = data.slice()
    await driver.writeBlocks(1, Uint32Array.of(9, 5), data)
    expect(buffer.byteLength).toBe(bytes * 2 + 8)
    expect(await driver.readBlocks(1, Uint32Array.of(9, 5))).toEqual(expected)
    expect(await driver.readBlocks(1, Uint32Array.of(5))).toEqual(expected.slice(bytes))
    // A Buffer, whose slices are windows into a pool that Node shares out.
    await driver.writeBlocks(1, Uint32Array.of(9, 5), Buffer.concat([Buffer.alloc(8), expected]).subarray(8))
    expect(await driver.readBlocks(1, Uint32Array.of(9, 5))).toEqual(expected)
    // Given away, at an offset that no float could have.
    const message = new Uint8Array(expected.length + 5)
    message.set(expected, 5)
    await driver.writeBlocks(1, Uint32Array.of(7, 3), message.subarray(5), true)
    expect(message.byteLength).toBe(0)
    expect(await driver.readBlocks(1, Uint32Array.of(7, 3))).toEqual(expected)
  })

  it('are refused outside the pool, the layers, or of another size', async () => {
    const driver = await tinyDriver()
    await expect(driver.readBlocks(0, Uint32Array.of(64))).rejects.toMatchObject({ code: 'invalid_input' })
    await expect(driver.readBlocks(3, Uint32Array.of(0))).rejects.toThrow('There is no layer 3')
    await expect(driver.writeBlocks(0, Uint32Array.of(0), new Uint8Array(7))).rejects.toThrow('not 7')
  })
})

describe('a step', () => {
  it('ends early when cancelled, and the next one is whole', async () => {
    const driver = await openDriver('skald')
    const layers: number[] = []
    const cancelled = await driver.step([part(range(0, 32), 0, 500)], (layer) => {
      layers.push(layer)
      driver.cancelStep()
    })
    expect(cancelled.cancelled).toBe(true)
    expect(layers.length).toBeLessThan(6)
    driver.cancelStep()
    expect(await driver.step([part(range(0, 32), 0, 500)])).toMatchObject({ cancelled: false })
  })

  it('runs alone', async () => {
    const driver = await tinyDriver()
    const first = driver.step([part(range(0, 1), 0, 4)])
    await expect(driver.step([part(range(1, 1), 0, 4)])).rejects.toThrow('runs a step already')
    await first
  })

  it('is counted', async () => {
    const driver = await tinyDriver()
    await driver.step([part(range(0, 1), 0, 4), part(range(1, 1), 0, 1), part(range(2, 1), 0, 1)])
    expect(await driver.stats()).toEqual({ steps: 1, matrixCalls: 4, attentionCalls: 5, rows: 6 })
  })
})

describe('several models on one device', () => {
  it('take turns, and each says what it says alone', async () => {
    const driver = createOrtDriver()
    drivers.push(driver)
    const [tiny, skald] = [
      await driver.loadModel({ model: 'dummy:llama-tiny', numerics: EXACT, kvBlocksMax: 64 }),
      await driver.loadModel({ model: 'skald', numerics: EXACT, kvBlocksMax: 64 }),
    ]
    const alone = [
      await tiny.step([part(range(0, 9), 0, 140)]),
      await skald.step([part(range(0, 9), 0, 140)]),
    ]
    const together = await Promise.all([
      tiny.step([part(range(20, 9), 0, 140)]),
      skald.step([part(range(20, 9), 0, 140)]),
    ])
    expect(together.map(({ logits }) => logits)).toEqual(alone.map(({ logits }) => logits))
  })

  it('come while others compute, and go', async () => {
    const driver = createOrtDriver()
    drivers.push(driver)
    const tiny = await driver.loadModel({ model: 'dummy:llama-tiny', numerics: EXACT, kvBlocksMax: 64 })
    const alone = await tiny.step([part(range(0, 9), 0, 140)])
    let isLoaded = false
    const loading = driver.loadModel({ model: 'skald', numerics: EXACT, kvBlocksMax: 64 }).finally(() => {
      isLoaded = true
    })
    const beside: Float32Array[] = []
    while (!isLoaded) beside.push((await tiny.step([part(range(20, 9), 0, 140)])).logits)
    expect(beside.length).toBeGreaterThan(1)
    for (const logits of beside) expect(logits).toEqual(alone.logits)
    const skald = await loading
    await Promise.all([skald.unload(), tiny.step([part(range(20, 9), 0, 140)])])
    await expect(skald.stats()).rejects.toThrow('has been unloaded')
  })

  it('one that is cancelled before its turn computes nothing, the other goes on', async () => {
    const driver = createOrtDriver()
    drivers.push(driver)
    const [one, two] = [
      await driver.loadModel({ model: 'dummy:llama-tiny', numerics: EXACT, kvBlocksMax: 64 }),
      await driver.loadModel({ model: 'dummy:llama-tiny', numerics: EXACT, kvBlocksMax: 64 }),
    ]
    const first = one.step([part(range(0, 30), 0, 400)])
    const second = two.step([part(range(0, 30), 0, 400)])
    two.cancelStep()
    expect(await second).toMatchObject({ cancelled: true })
    expect(await first).toMatchObject({ cancelled: false })
  })

  it('one that is unloaded in the middle of its step ends it, and the other serves on', async () => {
    const driver = createOrtDriver()
    drivers.push(driver)
    const [one, two] = [
      await driver.loadModel({ model: 'dummy:llama-tiny', numerics: EXACT, kvBlocksMax: 64 }),
      await driver.loadModel({ model: 'dummy:llama-tiny', numerics: EXACT, kvBlocksMax: 64 }),
    ]
    const first = one.step([part(range(0, 30), 0, 400)])
    await one.unload()
    expect(await first).toMatchObject({ cancelled: true })
    await expect(one.stats()).rejects.toThrow('has been unloaded')
    expect(await two.step([part(range(0, 1), 0, 9)])).toMatchObject({ cancelled: false })
  })
})

describe('errors', () => {
  it('of a model reach the caller as what they are', async () => {
    const driver = createOrtDriver()
    drivers.push(driver)
    const none = { model: 'dummy:no-such', numerics: EXACT }
    await expect(driver.inspectModel(none)).rejects.toMatchObject({ name: 'NotFoundError' })
    await expect(driver.loadModel({ ...none, kvBlocksMax: 4 })).rejects.toMatchObject({
      name: 'NotFoundError',
      message: expect.stringContaining('dummy:llama-0.5b'),
    })
  })

  it('a dead thread rejects what is pending and what comes later', async () => {
    const driver = await tinyDriver()
    const step = driver.step([part(range(0, 30), 0, 400)])
    const failure = expect(step).rejects.toMatchObject({ code: 'internal', name: 'InternalError' })
    await workers.at(-1)?.terminate()
    await failure
    await expect(driver.stats()).rejects.toThrow("The engine's thread ended")
    await expect(driver.lost).resolves.toMatchObject({ code: 'internal' })
  })

  it('closing rejects what is pending', async () => {
    const driver = await tinyDriver()
    const step = expect(driver.step([part(range(0, 30), 0, 400)])).rejects.toMatchObject({
      code: 'cancelled',
    })
    let isLost = false
    void driver.lost.then(() => {
      isLost = true
    })
    await driver.close()
    await step
    await expect(driver.stats()).rejects.toMatchObject({ code: 'cancelled' })
    expect(isLost).toBe(false)
  })
})

describe('closing', () => {
  // Ending a thread inside ONNX Runtime aborts the process, this test's too.
  it('in the middle of a step ends the thread between two calls, and rejects the step', async () => {
    const blocks = Uint32Array.from({ length: 16 }, (_, index) => index)
    const tokens = Uint32Array.from({ length: 250 }, (_, index) => index)
    for (const layer of [undefined, 0, 1]) {
      const driver = await tinyDriver()
      const reached = deferred<void>()
      const step = driver.step([{ blocks, start: 0, tokens, wantLogits: true }], (done) => {
        if (done === layer) reached.resolve()
      })
      const rejected = expect(step).rejects.toThrow(/closed/)
      if (layer !== undefined) await reached.promise
      await driver.close()
      await rejected
    }
  })

  it('while a model is loading rejects the load', async () => {
    const driver = createOrtDriver()
    const load = driver.loadModel({ model: 'dummy:llama-tiny', numerics: EXACT, kvBlocksMax: 16 })
    const rejected = expect(load).rejects.toThrow(/closed/)
    await driver.close()
    await rejected
  })
})
