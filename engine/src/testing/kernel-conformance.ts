/**
 * What every driver's kernels must do, as tests that any implementation is run against: compared with
 * plain references, and held to the properties that make offloading exact.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  BLOCK_TOKENS,
  type DeviceDriver,
  type DriverModel,
  type LoadedModelFacts,
  type PartialAttention,
} from '../device-driver.js'
import type { AttentionKernelName } from '../kernels.js'
import { mergePartials } from '../merge-partials.js'
import { EXACT } from '../numerics.js'
import { referenceBounds, referencePartial, referenceScores, referenceTopK } from './reference-kernels.js'

export interface KernelsUnderTest {
  create(): DeviceDriver
  /** A small model. */
  readonly model: string
}

const POOL_BLOCKS = 48
const LAYER = 1
const NAMES = ['page-bounds', 'page-scores', 'top-k', 'partial-attention', 'choose-pages'] as const
/** Rounding of a sum of some hundred products of numbers around 1. */
const TOLERANCE = 1e-4

/** Registers the suite for one driver. */
export function testKernelConformance(name: string, { create, model }: KernelsUnderTest): void {
  describe(`${name}: kernels of the memory pipeline`, () => {
    let device: DeviceDriver
    let driver: DriverModel
    let facts: LoadedModelFacts
    /** What each block of the pool holds in layer LAYER. */
    let held: Float32Array[]

    beforeAll(async () => {
      device = create()
      driver = await device.loadModel({ model, numerics: EXACT, kvBlocksMax: POOL_BLOCKS })
      facts = driver.facts
      const random = randomNumbers(7)
      held = Array.from({ length: POOL_BLOCKS }, () =>
        Float32Array.from({ length: facts.blockLayerBytes / 4 }, () => random() * 2),
      )
      await write(range(POOL_BLOCKS), held)
    })
    afterAll(() => device.close())

    const write = (blocks: Uint32Array, contents: readonly Float32Array[], layer = LAYER) =>
      driver.writeBlocks(layer, blocks, new Uint8Array(Buffer.concat(contents.map(bytesOf))))
    const contentsOf = (blocks: Uint32Array) =>
      Array.from(blocks, (block) => held[block] ?? new Float32Array(0))
    const queryOf = (seed: number) => {
      const random = randomNumbers(seed)
      return Float32Array.from({ length: facts.heads * facts.headDim }, () => random() * 2)
    }
    const boundsOf = (blocks: Uint32Array) => contentsOf(blocks).map((block) => referenceBounds(facts, block))
    const partialOf = (q: Float32Array, blocks: readonly Uint32Array[]) =>
      referencePartial(facts, q, (head) => contentsOf(blocks[head] ?? new Uint32Array(0)))
    const everyHead = (blocks: Uint32Array) => Array.from({ length: facts.kvHeads }, () => blocks)
    const attend = (q: Float32Array, blocks: readonly Uint32Array[]) =>
      driver.runKernel('partial-attention', { layer: LAYER, q, blocks })
    const merged = (...parts: PartialAttention[]) => mergePartials(parts, facts.heads, facts.headDim)

    const seeds = fc.nat(1_000_000)
    const someBlocks = fc
      .uniqueArray(fc.nat(POOL_BLOCKS - 1), { maxLength: 40 })
      .map((blocks) => Uint32Array.from(blocks))

    it('are declared with a version and limits', () => {
      const declared = new Map(device.describe().kernels.map((kernel) => [kernel.name, kernel]))
      for (const kernel of NAMES) {
        expect(declared.get(kernel)?.version).toBe(1)
        expect(Object.values(declared.get(kernel)?.limits ?? {}).every((limit) => limit > 0)).toBe(true)
      }
      for (const kernel of ['page-bounds', 'page-scores', 'partial-attention', 'choose-pages']) {
        expect(declared.get(kernel)?.limits.pages).toBeGreaterThanOrEqual(2_048)
      }
    })

    it('give the minimum and maximum of each page, head and channel', async () => {
      await fc.assert(
        fc.asyncProperty(someBlocks, async (blocks) => {
          const bounds = await driver.runKernel('page-bounds', { layer: LAYER, blocks })
          expect(bounds).toEqual(joined(boundsOf(blocks)))
          const bytes = await driver.readBounds(LAYER, blocks)
          expect(Buffer.compare(bytes, bytesOf(bounds))).toBe(0)
        }),
        { numRuns: 20 },
      )
    })

    it('score a page at least as high as any of its keys, and as the reference does', async () => {
      await fc.assert(
        fc.asyncProperty(someBlocks, seeds, async (blocks, seed) => {
          const q = queryOf(seed)
          const scores = await driver.runKernel('page-scores', { layer: LAYER, q, blocks })
          expectClose(scores, referenceScores(facts, q, boundsOf(blocks)))
          for (let head = 0; head < facts.heads; head++) {
            const kvHead = Math.floor(head / (facts.heads / facts.kvHeads))
            for (const [page, block] of blocks.entries()) {
              const score = scores[kvHead * blocks.length + page] ?? 0
              expect(score + TOLERANCE).toBeGreaterThanOrEqual(largestProduct(q, head, kvHead, block))
            }
          }
        }),
        { numRuns: 15 },
      )
    })

    const largestProduct = (q: Float32Array, head: number, kvHead: number, block: number) => {
      const products = Array.from({ length: BLOCK_TOKENS }, (_, token) => {
        const key = (kvHead * BLOCK_TOKENS + token) * facts.headDim
        let product = 0
        for (let d = 0; d < facts.headDim; d++) {
          product += (q[head * facts.headDim + d] ?? 0) * (held[block]?.[key + d] ?? 0)
        }
        return product
      })
      return Math.max(...products)
    }

    it('score a page with the same bits whatever is scored beside it', async () => {
      await fc.assert(
        fc.asyncProperty(someBlocks, seeds, async (blocks, seed) => {
          const q = queryOf(seed)
          const together = await driver.runKernel('page-scores', { layer: LAYER, q, blocks })
          const some = blocks.filter((_, i) => (seed >> (i % 16)) % 2 === 1).reverse()
          const apart = await driver.runKernel('page-scores', { layer: LAYER, q, blocks: some })
          for (let head = 0; head < facts.kvHeads; head++) {
            for (const [i, block] of some.entries()) {
              const expected = together[head * blocks.length + blocks.indexOf(block)]
              expect(apart[head * some.length + i]).toBe(expected)
            }
          }
        }),
        { numRuns: 20 },
      )
    })

    it('find the k largest of each row, of equal ones the first', async () => {
      const value = fc.oneof(
        fc.integer({ min: -3, max: 3 }),
        fc.float({ noNaN: true }),
        fc.constant(-Infinity),
      )
      const table = fc
        .record({ rows: fc.integer({ min: 1, max: 4 }), columns: fc.nat(40) })
        .chain(({ rows, columns }) =>
          fc.record({
            rows: fc.constant(rows),
            values: fc.array(value, { minLength: rows * columns, maxLength: rows * columns }),
          }),
        )
      await fc.assert(
        fc.asyncProperty(table, fc.nat(45), async ({ rows, values }, k) => {
          const columns = values.length / rows
          const chosen = await driver.runKernel('top-k', { values: Float32Array.from(values), rows, k })
          const expected = Array.from({ length: rows }, (_, row) =>
            referenceTopK(Float32Array.from(values).subarray(row * columns, (row + 1) * columns), k),
          )
          expect([...chosen]).toEqual(expected.flat())
        }),
        { numRuns: 60 },
      )
    })

    it('attend as plain attention does, to other pages with each head', async () => {
      await fc.assert(
        fc.asyncProperty(
          seeds,
          fc.array(someBlocks, { minLength: 8, maxLength: 8 }),
          async (seed, choices) => {
            const q = queryOf(seed)
            const blocks = choices.slice(0, facts.kvHeads)
            expectPartial(await attend(q, blocks), partialOf(q, blocks))
          },
        ),
        { numRuns: 20 },
      )
    })

    it('attend to parts of the pages such that any order of merging gives attention to all', async () => {
      await fc.assert(
        fc.asyncProperty(seeds, someBlocks, fc.nat(40), fc.nat(40), async (seed, blocks, a, b) => {
          const q = queryOf(seed)
          const [first, second] = [Math.min(a, b), Math.max(a, b)]
          const cuts = [blocks.slice(0, first), blocks.slice(first, second), blocks.slice(second)]
          const whole = await attend(q, everyHead(blocks))
          const parts: PartialAttention[] = []
          for (const cut of cuts) parts.push(await attend(q, everyHead(cut)))
          const [x, y, z] = parts as [PartialAttention, PartialAttention, PartialAttention]
          expectPartial(merged(x, y, z), whole)
          expectPartial(merged(merged(x, y), z), whole)
          expectPartial(merged(z, merged(y, x)), whole)
        }),
        { numRuns: 20 },
      )
    })

    it('take pages by the thousand, and the same one more than once', async () => {
      const blocks = Uint32Array.from({ length: 1_300 }, (_, i) => (i * i) % POOL_BLOCKS)
      const q = queryOf(4)
      expectPartial(await attend(q, everyHead(blocks)), partialOf(q, everyHead(blocks)))
      const choice = { layer: LAYER, q, blocks, pages: 700, rivals: new Float32Array(0), attend: true }
      const { chosen, partial, mass } = await driver.runKernel('choose-pages', choice)
      const scores = await driver.runKernel('page-scores', { layer: LAYER, q, blocks })
      for (const [head, own] of chosen.entries()) {
        const row = scores.subarray(head * blocks.length, (head + 1) * blocks.length)
        expect([...own]).toEqual(referenceTopK(row, 700))
        expect(mass?.[head]?.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 4)
      }
      const expected = partialOf(
        q,
        chosen.map((own) => own.map((i) => blocks[i] ?? 0)),
      )
      expectPartial(partial ?? expected, expected)
      expect(partial).toBeDefined()
    })

    it('attend to no page without a number that is none', async () => {
      const none = await attend(queryOf(3), everyHead(new Uint32Array(0)))
      expect([...none.max].every((max) => max === Number.NEGATIVE_INFINITY)).toBe(true)
      expect([...none.sum, ...none.output].every((value) => value === 0)).toBe(true)
      expectPartial(merged(none, none), none)
    })

    it('choose the pages that scores and top-k choose, rivals losing a tie, and attend to them', async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.record({
            seed: seeds,
            blocks: someBlocks,
            pages: fc.nat(45),
            rivals: fc.nat(6),
            attend: fc.boolean(),
          }),
          async ({ seed, blocks, pages, rivals: count, attend: wanted }) => {
            const q = queryOf(seed)
            const { kvHeads } = facts
            const scores = await driver.runKernel('page-scores', { layer: LAYER, q, blocks })
            const row = (head: number) => scores.subarray(head * blocks.length, (head + 1) * blocks.length)
            // Every second rival ties with one of the pages.
            const random = randomNumbers(seed)
            const rivals = Float32Array.from({ length: kvHeads * count }, (_, i) =>
              i % 2 === 0 ? random() * 20 : (row(Math.floor(i / count))[i % blocks.length] ?? 0),
            )
            const choice = await driver.runKernel('choose-pages', {
              layer: LAYER,
              q,
              blocks,
              pages,
              rivals,
              attend: wanted,
            })
            const expected = Array.from({ length: kvHeads }, (_, head) => {
              const all = [...row(head), ...rivals.subarray(head * count, (head + 1) * count)]
              const best = pages === 0 ? all.map((_, column) => column) : referenceTopK(all, pages)
              return best.filter((column) => column < blocks.length)
            })
            expect(choice.chosen.map((own) => [...own])).toEqual(expected)
            expect(Math.min(choice.relevancyUs, choice.retrievalUs, choice.applyUs)).toBeGreaterThanOrEqual(0)
            const chosen = choice.chosen.map((own) => own.map((i) => blocks[i] ?? 0))
            expect(choice.partial).toEqual(wanted ? await attend(q, chosen) : undefined)
            expect(choice.mass?.map(({ length }) => length)).toEqual(
              wanted ? chosen.map(({ length }) => length) : undefined,
            )
            for (const own of choice.mass ?? []) {
              const all = own.reduce((sum, weight) => sum + weight, 0)
              expect(all).toBeCloseTo(own.length === 0 ? 0 : 1, 4)
            }
          },
        ),
        { numRuns: 30 },
      )
    })

    it('keep to what they were given: bounds of another device stand until the block is written', async () => {
      const block = Uint32Array.of(5)
      const given = Float32Array.from({ length: facts.kvHeads * 2 * facts.headDim }, (_, i) => i / 8)
      await driver.writeBounds(0, block, bytesOf(given))
      expect(await driver.runKernel('page-bounds', { layer: 0, blocks: block })).toEqual(given)
      const content = held[11] ?? new Float32Array(0)
      await write(block, [content], 0)
      expect(await driver.runKernel('page-bounds', { layer: 0, blocks: block })).toEqual(
        referenceBounds(facts, content),
      )
    })

    it('take what is there when they are called, whatever is issued after', async () => {
      const blocks = Uint32Array.of(1, 2)
      const q = queryOf(9)
      const before = contentsOf(blocks)
      const other = contentsOf(Uint32Array.of(20, 21))
      const expected = await attend(q, everyHead(blocks))
      const calls = [
        driver.runKernel('page-scores', { layer: LAYER, q, blocks }),
        driver.runKernel('page-bounds', { layer: LAYER, blocks }),
        attend(q, everyHead(blocks)),
      ] as const
      const overwritten = write(blocks, other)
      const bounds = await driver.runKernel('page-bounds', { layer: LAYER, blocks })
      await overwritten
      expect(bounds).toEqual(joined(other.map((block) => referenceBounds(facts, block))))
      expectClose(await calls[0], referenceScores(facts, q, boundsOf(blocks)))
      expect(await calls[1]).toEqual(joined(boundsOf(blocks)))
      expect(await calls[2]).toEqual(expected)
      await write(blocks, before)
    })

    const tooMany = (kernel: AttentionKernelName) => {
      const pages = (device.describe().kernels.find(({ name }) => name === kernel)?.limits.pages ?? 0) + 1
      return new Uint32Array(pages)
    }
    it.each([
      ['pages beyond the limit', () => ({ layer: LAYER, blocks: tooMany('page-bounds') })],
      ['a block outside the pool', () => ({ layer: LAYER, blocks: Uint32Array.of(POOL_BLOCKS) })],
      ['a layer that is not there', () => ({ layer: facts.layers, blocks: Uint32Array.of(0) })],
    ])('refuse %s', async (_, input) => {
      const q = queryOf(1)
      const { layer, blocks } = input()
      const refused = { code: 'invalid_input' }
      await expect(driver.runKernel('page-bounds', { layer, blocks })).rejects.toMatchObject(refused)
      await expect(driver.runKernel('page-scores', { layer, q, blocks })).rejects.toMatchObject(refused)
      const heads = everyHead(blocks)
      await expect(driver.runKernel('partial-attention', { layer, q, blocks: heads })).rejects.toMatchObject(
        refused,
      )
      const choice = { layer, q, blocks, pages: 1, rivals: new Float32Array(0), attend: true }
      await expect(driver.runKernel('choose-pages', choice)).rejects.toMatchObject(refused)
    })

    it('refuse sizes that do not go together', async () => {
      const blocks = Uint32Array.of(0)
      const refused = { code: 'invalid_input' }
      const q = new Float32Array(facts.heads * facts.headDim + 1)
      await expect(driver.runKernel('page-scores', { layer: LAYER, q, blocks })).rejects.toMatchObject(
        refused,
      )
      await expect(attend(q, everyHead(blocks))).rejects.toMatchObject(refused)
      await expect(attend(queryOf(1), [])).rejects.toMatchObject(refused)
      const values = new Float32Array(7)
      await expect(driver.runKernel('top-k', { values, rows: 2, k: 1 })).rejects.toMatchObject(refused)
      await expect(driver.runKernel('top-k', { values, rows: 1, k: -1 })).rejects.toMatchObject(refused)
      const limits = device.describe().kernels.find(({ name }) => name === 'top-k')?.limits
      const rows = (limits?.rows ?? 0) + 1
      const many = { values: new Float32Array(rows), rows, k: 1 }
      await expect(driver.runKernel('top-k', many)).rejects.toMatchObject(refused)
    })

    it('that the driver lacks are refused as unsupported', async () => {
      const name = 'no-such-kernel' as AttentionKernelName
      await expect(driver.runKernel(name, { key: '' } as never)).rejects.toMatchObject({
        code: 'unsupported',
      })
    })
  })
}

function range(count: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => i)
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.slice().buffer)
}

function joined(parts: readonly Float32Array[]): Float32Array {
  return Float32Array.from(parts.flatMap((part) => [...part]))
}

/** Between −0.5 and 0.5, from a seed. */
function randomNumbers(seed: number): () => number {
  let state = (seed * 2_654_435_761 + 12_345) >>> 0
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32 - 0.5
  }
}

function expectClose(got: Float32Array, expected: Float32Array): void {
  expect(got.length).toBe(expected.length)
  for (const [i, value] of expected.entries()) {
    if (Number.isFinite(value)) expect(Math.abs((got[i] ?? Number.NaN) - value)).toBeLessThan(TOLERANCE)
    else expect(got[i]).toBe(value)
  }
}

function expectPartial(got: PartialAttention, expected: PartialAttention): void {
  expectClose(got.output, expected.output)
  expectClose(got.max, expected.max)
  const relative = (sum: Float32Array) => sum.map((value, i) => value / Math.max(1, expected.sum[i] ?? 0))
  expectClose(relative(got.sum), relative(expected.sum))
}
