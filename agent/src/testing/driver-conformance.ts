/**
 * What every device driver must do, as tests that any implementation is run against.
 */
import {
  BLOCK_TOKENS,
  type DeviceDriver,
  type LoadedModelFacts,
  type StepSequence,
} from '@kvasir/engine/device-driver'
import { KvasirError } from '@kvasir/runtime/errors'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

const KV_BLOCKS = 64

export interface DriverUnderTest {
  create(): DeviceDriver
  /** A small model. */
  readonly model: string
}

/** Registers the suite for one driver. */
export function testDriverConformance(name: string, { create, model }: DriverUnderTest): void {
  describe(`${name} as a device driver`, () => {
    let driver: DeviceDriver
    let facts: LoadedModelFacts
    let nextBlock = 0

    beforeAll(async () => {
      driver = create()
      facts = await driver.loadModel({ model, kvBlocksMax: KV_BLOCKS })
    })
    afterAll(() => driver.close())

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
      expect(driver.describe().rowsMax).toBeGreaterThanOrEqual(256)
      expect(driver.describe().kernels.length).toBeGreaterThan(0)
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

    it('refuses a model that is missing', async () => {
      const other = create()
      await expect(other.loadModel({ model: '/no/such/model', kvBlocksMax: 4 })).rejects.toBeInstanceOf(
        KvasirError,
      )
      await other.close()
    })
  })
}
