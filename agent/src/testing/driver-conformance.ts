/**
 * What every device driver must do, as tests that any implementation is run against.
 */
import {
  BLOCK_TOKENS,
  type DeviceDriver,
  type DriverModel,
  type LoadedModelFacts,
  type RemoteAttention,
  type SparseAttention,
  type StepSequence,
} from '@kvasir/engine/device-driver'
import { EXACT } from '@kvasir/engine/numerics'
import { attendingDevice } from '@kvasir/engine/testing/attending-device'
import { KvasirError, UnreachableError } from '@kvasir/runtime/errors'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

/** More than the suite uses at a time: blocks are given out in turn. */
const KV_BLOCKS = 128

export interface DriverUnderTest {
  create(): DeviceDriver
  /** A small model. */
  readonly model: string
}

/** Registers the suite for one driver. */
export function testDriverConformance(name: string, { create, model }: DriverUnderTest): void {
  describe(`${name} as a device driver`, () => {
    let device: DeviceDriver
    let driver: DriverModel
    let facts: LoadedModelFacts
    let nextBlock = 0

    beforeAll(async () => {
      device = create()
      driver = await device.loadModel({ model, numerics: EXACT, kvBlocksMax: KV_BLOCKS })
      facts = driver.facts
    })
    afterAll(() => device.close())

    /** Blocks that no sequence of this suite has used, scattered over the pool. */
    const blocksFor = (tokens: number): Uint32Array =>
      Uint32Array.from({ length: Math.ceil(tokens / BLOCK_TOKENS) }, () => (nextBlock++ * 37) % KV_BLOCKS)
    const prompt = (length: number, seed: number): Uint32Array =>
      Uint32Array.from({ length }, (_, i) => (i * 31 + seed * 17) % Math.min(90, facts.vocabularySize))
    const part = (blocks: Uint32Array, tokens: Uint32Array, start: number, end: number): StepSequence => ({
      blocks: blocks.slice(0, Math.ceil(end / BLOCK_TOKENS)),
      start,
      tokens: tokens.slice(start, end),
      wantLogits: end === tokens.length,
    })
    const runWhole = async (tokens: Uint32Array, blocks = blocksFor(tokens.length)) =>
      (await driver.step([part(blocks, tokens, 0, tokens.length)])).logits

    it('tells the sizes of its model', () => {
      const { kvHeads, headDim, blockLayerBytes, layers, vocabularySize, contextTokensMax, digest } = facts
      expect(blockLayerBytes).toBe(2 * kvHeads * BLOCK_TOKENS * headDim * 4)
      expect(Math.min(layers, vocabularySize, contextTokensMax)).toBeGreaterThan(0)
      expect(digest).toMatch(/^[0-9a-f]{64}$/)
      expect(device.describe().rowsMax).toBeGreaterThanOrEqual(256)
      expect(device.describe().kernels.length).toBeGreaterThan(0)
    })

    it('gives the same logits for a prompt in chunks', async () => {
      const tokens = prompt(45, 1)
      const whole = await runWhole(tokens)
      const blocks = blocksFor(45)
      await driver.step([part(blocks, tokens, 0, 16)])
      await driver.step([part(blocks, tokens, 16, 39)])
      const chunked = await driver.step([part(blocks, tokens, 39, 45)])
      expect(chunked.logits).toEqual(whole)
      expect(whole).toHaveLength(facts.vocabularySize)
    })

    it('gives the same logits token by token', async () => {
      const tokens = prompt(35, 2)
      const whole = await runWhole(tokens)
      const blocks = blocksFor(35)
      await driver.step([part(blocks, tokens, 0, 30)])
      for (let end = 31; end < 35; end += 1) await driver.step([part(blocks, tokens, end - 1, end)])
      expect((await driver.step([part(blocks, tokens, 34, 35)])).logits).toEqual(whole)
    })

    it('gives the same logits whatever else is in the batch', async () => {
      const long = prompt(40, 3)
      const short = prompt(5, 4)
      const decoding = prompt(18, 5)
      const alone = [await runWhole(long), await runWhole(short), await runWhole(decoding)]
      const blocks = blocksFor(18)
      await driver.step([part(blocks, decoding, 0, 17)])
      const { logits } = await driver.step([
        part(blocksFor(40), long, 0, 40),
        part(blocksFor(5), short, 0, 5),
        part(blocks, decoding, 17, 18),
      ])
      const size = facts.vocabularySize
      alone.forEach((row, index) => {
        expect(logits.slice(index * size, (index + 1) * size)).toEqual(row)
      })
    })

    it('continues a sequence whose blocks were copied to others', async () => {
      const tokens = prompt(38, 6)
      const whole = await runWhole(tokens)
      const from = blocksFor(38)
      const to = blocksFor(38)
      await driver.step([part(from, tokens, 0, 37)])
      for (let layer = 0; layer < facts.layers; layer += 1) {
        const data = await driver.readBlocks(layer, from)
        expect(data.byteLength).toBe(from.length * facts.blockLayerBytes)
        await driver.writeBlocks(layer, to, data)
      }
      expect((await driver.step([part(to, tokens, 37, 38)])).logits).toEqual(whole)
    })

    it('reports layers in order, each readable while the step goes on', async () => {
      const tokens = prompt(33, 7)
      const blocks = blocksFor(33)
      const layers: number[] = []
      const during: Promise<Uint8Array>[] = []
      await driver.step([part(blocks, tokens, 0, 33)], (layer) => {
        layers.push(layer)
        during.push(driver.readBlocks(layer, blocks.slice(0, 2)))
      })
      expect(layers).toEqual(Array.from({ length: facts.layers }, (_, layer) => layer))
      for (const layer of layers) {
        expect(await during[layer]).toEqual(await driver.readBlocks(layer, blocks.slice(0, 2)))
      }
    })

    it('runs a step anew after it was cancelled', async () => {
      const tokens = prompt(48, 8)
      const whole = await runWhole(tokens)
      const blocks = blocksFor(48)
      await driver.step([part(blocks, tokens, 0, 48)], () => driver.cancelStep())
      const again = await driver.step([part(blocks, tokens, 0, 48)])
      expect(again.cancelled).toBe(false)
      expect(again.logits).toEqual(whole)
    })

    it('runs a matrix call a layer, however many sequences share the step', async () => {
      const calls = async (count: number) => {
        const before = (await driver.stats()).matrixCalls
        await driver.step(
          Array.from({ length: count }, (_, i) => part(blocksFor(3), prompt(3, 20 + i), 0, 3)),
        )
        return (await driver.stats()).matrixCalls - before
      }
      const one = await calls(1)
      expect(await calls(5)).toBe(one)
      expect(one).toBeGreaterThanOrEqual(facts.layers)
    })

    it('copies blocks of all layers with their bounds, also in a circle', async () => {
      const tokens = prompt(48, 9)
      const whole = await runWhole(tokens)
      const from = blocksFor(48)
      await driver.step([part(from, tokens, 0, 47)])
      const bounds = await driver.readBounds(1, from)
      const turned = Uint32Array.of(from[1] ?? 0, from[2] ?? 0, from[0] ?? 0)
      await driver.copyBlocks(from, turned)
      expect(await driver.readBounds(1, turned)).toEqual(bounds)
      expect((await driver.step([part(turned, tokens, 47, 48)])).logits).toEqual(whole)
      await expect(driver.copyBlocks(from, turned.slice(1))).rejects.toMatchObject({ code: 'invalid_input' })
    })

    it('reads and copies what was there when it was asked, whatever is asked for next', async () => {
      const blocks = blocksFor(48)
      const copies = blocksFor(48)
      const old = prompt(48, 10)
      await driver.step([part(blocks, old, 0, 48)])
      const before = await driver.readBlocks(0, blocks)
      const boundsBefore = await driver.readBounds(0, blocks)
      // The blocks are given to another sequence as soon as reading and copying them was asked for.
      const read = driver.readBlocks(0, blocks)
      const bounds = driver.readBounds(0, blocks)
      const copied = driver.copyBlocks(blocks, copies)
      const during: Promise<Uint8Array>[] = []
      const step = driver.step([part(blocks, prompt(48, 11), 0, 48)], (layer) => {
        if (layer !== 0) return
        // So too while a step runs.
        during.push(driver.readBlocks(0, copies))
        void driver.writeBlocks(0, copies, new Uint8Array(before.length))
      })
      await Promise.all([step, copied])
      expect(await read).toEqual(before)
      expect(await bounds).toEqual(boundsBefore)
      expect(await during[0]).toEqual(before)
      expect(await driver.readBlocks(0, copies)).toEqual(new Uint8Array(before.length))
      expect(await driver.readBlocks(0, blocks)).not.toEqual(before)
    })

    it('keeps the bounds it was given until the block is written', async () => {
      const blocks = blocksFor(16)
      const tokens = prompt(16, 12)
      await driver.step([part(blocks, tokens, 0, 16)])
      const own = await driver.readBounds(0, blocks)
      expect(own.byteLength).toBe(facts.kvHeads * 2 * facts.headDim * 4)
      const given = new Uint8Array(new Float32Array(own.byteLength / 4).fill(2.5).buffer)
      await driver.writeBounds(0, blocks, given.slice())
      expect(await driver.readBounds(0, blocks)).toEqual(given)
      await driver.step([part(blocks, tokens, 0, 16)])
      expect(await driver.readBounds(0, blocks)).toEqual(own)
      await expect(driver.writeBounds(0, blocks, given.slice(1))).rejects.toMatchObject({
        code: 'invalid_input',
      })
    })

    describe('with a budget of pages', () => {
      const PROMPT = 90
      const pages = Math.floor(PROMPT / BLOCK_TOKENS) + 1
      const tokens = () => prompt(PROMPT + 1, 13)
      let blocks: Uint32Array
      beforeAll(async () => {
        blocks = blocksFor(PROMPT + 1)
        await driver.step([part(blocks, tokens(), 0, PROMPT)])
      })
      const last = (changes: Partial<StepSequence> = {}): StepSequence => ({
        ...part(blocks, tokens(), PROMPT, PROMPT + 1),
        ...changes,
      })
      const budget = (method: SparseAttention['method'], count: number) => ({
        attention: { method, pages: count, seed: 5 },
        trackPages: true,
      })

      it.each(['page-bounds', 'random', 'recent'] as const)(
        'of all, %s is dense attention to the bit',
        async (method) => {
          const dense = await driver.step([last()])
          const all = await driver.step([last(budget(method, pages))])
          expect(all.logits).toEqual(dense.logits)
          expect(all.attention[0]?.reads.slice(0, pages)).toEqual(new Float32Array(pages).fill(1))
        },
      )

      it('reads as many pages as that, the newest always, and says so', async () => {
        for (const method of ['page-bounds', 'random', 'recent'] as const) {
          const { attention, failed } = await driver.step([last(budget(method, 3))])
          const [use] = attention
          expect(failed).toEqual([])
          expect(use?.reads).toHaveLength(blocks.length)
          expect(use?.reads[pages - 1]).toBe(1)
          expect(use?.reads.reduce((sum, share) => sum + share, 0)).toBeCloseTo(3, 4)
          expect(use?.mass.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 4)
          expect(use?.pagesRead).toBe(3 * facts.layers * facts.kvHeads)
        }
      })

      it('chooses the same pages and gives the same answer with another device', async () => {
        const elsewhere = create()
        try {
          const other = await elsewhere.loadModel({ model, numerics: EXACT, kvBlocksMax: KV_BLOCKS })
          for (const count of [1, 2, 4, pages]) {
            const here = await driver.step([last(budget('page-bounds', count))])
            for (const mode of ['partial', 'indices'] as const) {
              const remote = await attendingDevice(
                driver,
                blocks.slice(0, 4),
                other,
                new Uint32Array([9, 3, 7, 1]),
                facts,
                mode,
              )
              const own = mode === 'partial' ? blocks.slice(4) : blocks
              const { logits, attention, failed } = await driver.step([
                last({ ...budget('page-bounds', count), remote, blocks: own }),
              ])
              expect(failed).toEqual([])
              const error = logits.reduce(
                (most, value, i) => Math.max(most, Math.abs(value - (here.logits[i] ?? Number.NaN))),
                0,
              )
              expect(error).toBeLessThan(1e-4)
              expect(attention[0]?.pagesRead).toBe(here.attention[0]?.pagesRead)
            }
          }
        } finally {
          await elsewhere.close()
        }
      })

      it('fails a sequence alone whose other device is lost, and ends a wait when cancelled', async () => {
        const alone = await driver.step([part(blocksFor(5), prompt(5, 14), 0, 5)])
        const lost: RemoteAttention = {
          pages: 2,
          mode: 'partial',
          ask: () => Promise.reject(new UnreachableError('fpga-1 is lost.')),
        }
        const own = blocks.slice(2)
        const { logits, failed } = await driver.step([
          last({ remote: lost, blocks: own }),
          part(blocksFor(5), prompt(5, 14), 0, 5),
        ])
        expect(failed).toMatchObject([{ sequence: 0, error: { code: 'unreachable' } }])
        expect(logits.slice(facts.vocabularySize)).toEqual(alone.logits)
        const silent: RemoteAttention = {
          ...lost,
          ask: () => {
            driver.cancelStep()
            return new Promise(() => {})
          },
        }
        expect(await driver.step([last({ remote: silent, blocks: own })])).toMatchObject({
          cancelled: true,
          failed: [],
        })
      })
    })

    it('refuses a model that is missing', async () => {
      const other = create()
      await expect(
        other.loadModel({ model: '/no/such/model', numerics: EXACT, kvBlocksMax: 4 }),
      ).rejects.toBeInstanceOf(KvasirError)
      await other.close()
    })
  })
}
