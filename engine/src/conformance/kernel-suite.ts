/**
 * What every driver's attention kernels must do: compared with plain references, and held to the properties that
 * make offloading exact.
 */
import fc from 'fast-check'
import { BLOCK_TOKENS, type PartialAttention } from '../device-driver.js'
import type { AttentionKernelName } from '../kernels.js'
import { referenceBounds, referenceScores, referenceTopK } from '../testing/reference-kernels.js'
import type { ConformanceCase, ConformanceSuite } from './conformance-case.js'
import { close, equal, failsWith, holds, same } from './expectations.js'
import { joined, KernelContext, POOL_BLOCKS, randomNumbers, TOLERANCE } from './kernel-context.js'

const seeds = fc.nat(1_000_000)
const someBlocks = fc
  .uniqueArray(fc.nat(POOL_BLOCKS - 1), { maxLength: 40 })
  .map((blocks) => Uint32Array.from(blocks))

const tables = fc
  .record({ rows: fc.integer({ min: 1, max: 4 }), columns: fc.nat(40) })
  .chain(({ rows, columns }) => {
    const value = fc.oneof(fc.integer({ min: -3, max: 3 }), fc.float({ noNaN: true }), fc.constant(-Infinity))
    const length = { minLength: rows * columns, maxLength: rows * columns }
    return fc.record({ rows: fc.constant(rows), values: fc.array(value, length) })
  })
const choices = fc.record({
  seed: seeds,
  blocks: someBlocks,
  pages: fc.nat(45),
  rivals: fc.nat(6),
  attend: fc.boolean(),
})

const PAGES_KERNELS = ['page-bounds', 'page-scores', 'partial-attention', 'choose-pages'] as const
type PagesKernel = (typeof PAGES_KERNELS)[number]

const cases: readonly ConformanceCase<KernelContext>[] = [
  ...PAGES_KERNELS.map(
    (kernel): ConformanceCase<KernelContext> => ({
      name: `${kernel} takes as many pages as a long context has`,
      needs: [kernel],
      async run({ target }) {
        const { pages = 0 } =
          target.device.describe().kernels.find(({ name }) => name === kernel)?.limits ?? {}
        holds(pages >= 2_048, `The limit pages of ${kernel} should be at least 2048, but is ${pages}.`)
      },
    }),
  ),
  {
    name: 'page-bounds gives the minimum and maximum of each page, head and channel',
    needs: ['page-bounds'],
    run: (context) =>
      fc.assert(
        fc.asyncProperty(someBlocks, async (blocks) => {
          const { driver, layer } = context
          const bounds = await driver.runKernel('page-bounds', { layer, blocks })
          same('Bounds', bounds, joined(context.boundsOf(blocks)))
          const bytes = new Uint8Array(await driver.readBounds(layer, blocks))
          same('Bounds by readBounds', new Float32Array(bytes.buffer), bounds)
        }),
        { numRuns: 20 },
      ),
  },
  {
    name: 'page-scores are at least every product with a key, and as the reference has them',
    needs: ['page-scores'],
    run: (context) =>
      fc.assert(
        fc.asyncProperty(someBlocks, seeds, async (blocks, seed) => {
          const { driver, facts, layer } = context
          const q = context.queryOf(seed)
          const scores = await driver.runKernel('page-scores', { layer, q, blocks })
          close('Scores', scores, referenceScores(facts, q, context.boundsOf(blocks)), TOLERANCE)
          for (let head = 0; head < facts.heads; head++) {
            const kvHead = Math.floor(head / (facts.heads / facts.kvHeads))
            for (const [page, block] of blocks.entries()) {
              const score = scores[kvHead * blocks.length + page] ?? 0
              const product = largestProduct(context, q, head, kvHead, block)
              holds(
                score + TOLERANCE >= product,
                `A page scores ${score}, less than a product with its key, ${product}.`,
              )
            }
          }
        }),
        { numRuns: 15 },
      ),
  },
  {
    name: 'page-scores has the same bits whatever is scored beside a page',
    needs: ['page-scores'],
    run: (context) =>
      fc.assert(
        fc.asyncProperty(someBlocks, seeds, async (blocks, seed) => {
          const { driver, facts, layer } = context
          const q = context.queryOf(seed)
          const together = await driver.runKernel('page-scores', { layer, q, blocks })
          const some = blocks.filter((_, i) => (seed >> (i % 16)) % 2 === 1).reverse()
          const apart = await driver.runKernel('page-scores', { layer, q, blocks: some })
          const expected = Float32Array.from({ length: facts.kvHeads * some.length }, (_, i) => {
            const head = Math.floor(i / some.length)
            return together[head * blocks.length + blocks.indexOf(some[i % some.length] ?? 0)] ?? Number.NaN
          })
          same('Scores of some pages, alone and among others', apart, expected)
        }),
        { numRuns: 20 },
      ),
  },
  {
    name: 'top-k finds the k largest of each row, of equal ones the first',
    needs: ['top-k'],
    run: ({ driver }) =>
      fc.assert(
        fc.asyncProperty(tables, fc.nat(45), async ({ rows, values }, k) => {
          const columns = values.length / rows
          const table = Float32Array.from(values)
          const chosen = await driver.runKernel('top-k', { values: table, rows, k })
          const expected = Array.from({ length: rows }, (_, row) =>
            referenceTopK(table.subarray(row * columns, (row + 1) * columns), k),
          )
          same('Columns', chosen, Uint32Array.from(expected.flat()))
        }),
        { numRuns: 60 },
      ),
  },
  {
    name: 'partial-attention attends as plain attention does, to other pages with each head',
    needs: ['partial-attention'],
    run: (context) =>
      fc.assert(
        fc.asyncProperty(
          seeds,
          fc.array(someBlocks, { minLength: context.facts.kvHeads, maxLength: context.facts.kvHeads }),
          async (seed, blocks) => {
            const q = context.queryOf(seed)
            context.closePartial('Attention', await context.attend(q, blocks), context.partialOf(q, blocks))
          },
        ),
        { numRuns: 20 },
      ),
  },
  {
    name: 'partial-attention to parts of the pages merges to attention to all, in any order',
    needs: ['partial-attention'],
    run: (context) =>
      fc.assert(
        fc.asyncProperty(seeds, someBlocks, fc.nat(40), fc.nat(40), async (seed, blocks, a, b) => {
          const q = context.queryOf(seed)
          const [first, second] = [Math.min(a, b), Math.max(a, b)]
          const cuts = [blocks.slice(0, first), blocks.slice(first, second), blocks.slice(second)]
          const whole = await context.attend(q, context.everyHead(blocks))
          const parts: PartialAttention[] = []
          for (const cut of cuts) parts.push(await context.attend(q, context.everyHead(cut)))
          const [x, y, z] = parts as [PartialAttention, PartialAttention, PartialAttention]
          context.closePartial('Three parts', context.merged(x, y, z), whole)
          context.closePartial('Two and one', context.merged(context.merged(x, y), z), whole)
          context.closePartial('Backwards', context.merged(z, context.merged(y, x)), whole)
        }),
        { numRuns: 20 },
      ),
  },
  {
    name: 'takes pages by the thousand, and the same one more than once',
    needs: ['page-scores', 'partial-attention', 'choose-pages'],
    async run(context) {
      const { driver, layer } = context
      const blocks = Uint32Array.from({ length: 1_300 }, (_, i) => (i * i) % POOL_BLOCKS)
      const q = context.queryOf(4)
      const all = context.everyHead(blocks)
      context.closePartial('Attention to 1300 pages', await context.attend(q, all), context.partialOf(q, all))
      const choice = { layer, q, blocks, pages: 700, rivals: new Float32Array(0), attend: true }
      const { chosen, partial, mass } = await driver.runKernel('choose-pages', choice)
      const scores = await driver.runKernel('page-scores', { layer, q, blocks })
      for (const [head, own] of chosen.entries()) {
        const row = scores.subarray(head * blocks.length, (head + 1) * blocks.length)
        same('Chosen pages', own, Uint32Array.from(referenceTopK(row, 700)))
        sumsTo('Weights of the chosen pages', mass?.[head] ?? new Float32Array(0), 1)
      }
      holds(partial !== undefined, 'Attention that was wanted should be there.')
      const expected = context.partialOf(
        q,
        chosen.map((own) => own.map((i) => blocks[i] ?? 0)),
      )
      context.closePartial('Attention to 700 pages', partial, expected)
    },
  },
  {
    name: 'partial-attention to no page has no number that is none',
    needs: ['partial-attention'],
    async run(context) {
      const none = await context.attend(context.queryOf(3), context.everyHead(new Uint32Array(0)))
      same('max', none.max, new Float32Array(none.max.length).fill(Number.NEGATIVE_INFINITY))
      same('sum', none.sum, new Float32Array(none.sum.length))
      same('output', none.output, new Float32Array(none.output.length))
      context.closePartial('Merged with itself', context.merged(none, none), none)
    },
  },
  {
    name: 'choose-pages chooses what scores and top-k choose, rivals losing a tie, and attends to it',
    needs: ['page-scores', 'partial-attention', 'choose-pages'],
    run: (context) =>
      fc.assert(
        fc.asyncProperty(choices, (choice) => judgeChoice(context, choice)),
        { numRuns: 30 },
      ),
  },
  {
    name: 'bounds of another device stand until the block is written',
    needs: ['page-bounds'],
    async run(context) {
      const { driver, facts, held } = context
      const block = Uint32Array.of(5)
      const given = Float32Array.from({ length: facts.kvHeads * 2 * facts.headDim }, (_, i) => i / 8)
      await driver.writeBounds(0, block, new Uint8Array(given.slice().buffer))
      same('Bounds given', await driver.runKernel('page-bounds', { layer: 0, blocks: block }), given)
      const content = held[11] ?? new Float32Array(0)
      const before = context.layer === 0 ? context.contentsOf(block) : [content]
      await context.write(block, [content], 0)
      const bounds = await driver.runKernel('page-bounds', { layer: 0, blocks: block })
      same('Bounds of what was written', bounds, referenceBounds(facts, content))
      await context.write(block, before, 0)
    },
  },
  {
    name: 'kernels take what is there when they are called, whatever is issued after',
    needs: ['page-scores', 'page-bounds', 'partial-attention'],
    async run(context) {
      const { driver, facts, layer } = context
      const blocks = Uint32Array.of(1, 2)
      const q = context.queryOf(9)
      const before = context.contentsOf(blocks)
      const other = context.contentsOf(Uint32Array.of(20, 21))
      const expected = await context.attend(q, context.everyHead(blocks))
      const calls = [
        driver.runKernel('page-scores', { layer, q, blocks }),
        driver.runKernel('page-bounds', { layer, blocks }),
        context.attend(q, context.everyHead(blocks)),
      ] as const
      const overwritten = context.write(blocks, other)
      const bounds = await driver.runKernel('page-bounds', { layer, blocks })
      await overwritten
      same('Bounds after the write', bounds, joined(other.map((block) => referenceBounds(facts, block))))
      close(
        'Scores before it',
        await calls[0],
        referenceScores(facts, q, context.boundsOf(blocks)),
        TOLERANCE,
      )
      same('Bounds before it', await calls[1], joined(context.boundsOf(blocks)))
      const partial = await calls[2]
      same('Attention before it', partial.output, expected.output)
      await context.write(blocks, before)
    },
  },
  ...(
    [
      ['pages beyond the limit', (kernel, context) => [context.layer, tooMany(context, kernel)]],
      ['a block outside the pool', (_, context) => [context.layer, Uint32Array.of(POOL_BLOCKS)]],
      ['a layer that is not there', (_, context) => [context.facts.layers, Uint32Array.of(0)]],
    ] satisfies [string, (kernel: PagesKernel, context: KernelContext) => [number, Uint32Array]][]
  ).flatMap(([what, input]) =>
    PAGES_KERNELS.map(
      (kernel): ConformanceCase<KernelContext> => ({
        name: `${kernel} refuses ${what}`,
        needs: [kernel],
        async run(context) {
          const [layer, blocks] = input(kernel, context)
          await failsWith(
            `${kernel} with ${what}`,
            callPages(context, kernel, layer, blocks),
            'invalid_input',
          )
        },
      }),
    ),
  ),
  {
    name: 'page-scores and partial-attention refuse sizes that do not go together',
    needs: ['page-scores', 'partial-attention'],
    async run(context) {
      const { driver, facts, layer } = context
      const blocks = Uint32Array.of(0)
      const q = new Float32Array(facts.heads * facts.headDim + 1)
      const scores = driver.runKernel('page-scores', { layer, q, blocks })
      await failsWith('Scores of a query that is too long', scores, 'invalid_input')
      await failsWith('Attention of one', context.attend(q, context.everyHead(blocks)), 'invalid_input')
      await failsWith('Attention of no head', context.attend(context.queryOf(1), []), 'invalid_input')
    },
  },
  {
    name: 'top-k refuses sizes that do not go together, and rows beyond its limit',
    needs: ['top-k'],
    async run({ driver, target }) {
      const values = new Float32Array(7)
      await failsWith('Half a row', driver.runKernel('top-k', { values, rows: 2, k: 1 }), 'invalid_input')
      await failsWith('k of -1', driver.runKernel('top-k', { values, rows: 1, k: -1 }), 'invalid_input')
      const limits = target.device.describe().kernels.find(({ name }) => name === 'top-k')?.limits
      const rows = (limits?.rows ?? 0) + 1
      const many = { values: new Float32Array(rows), rows, k: 1 }
      await failsWith('Rows beyond the limit', driver.runKernel('top-k', many), 'invalid_input')
    },
  },
  {
    name: 'a kernel that the driver lacks is refused as unsupported',
    async run({ driver }) {
      const name = 'no-such-kernel' as AttentionKernelName
      await failsWith('It', driver.runKernel(name, { key: '' } as never), 'unsupported')
    },
  },
]

export const kernelSuite: ConformanceSuite<KernelContext> = {
  name: 'attention kernels',
  open: (target) => KernelContext.open(target),
  close: ({ driver }) => driver.unload(),
  cases,
}

function tooMany({ target }: KernelContext, kernel: PagesKernel): Uint32Array {
  const { pages = 0 } = target.device.describe().kernels.find(({ name }) => name === kernel)?.limits ?? {}
  return new Uint32Array(pages + 1)
}

function callPages(
  context: KernelContext,
  kernel: PagesKernel,
  layer: number,
  blocks: Uint32Array,
): Promise<unknown> {
  const { driver } = context
  const q = context.queryOf(1)
  switch (kernel) {
    case 'page-bounds':
      return driver.runKernel(kernel, { layer, blocks })
    case 'page-scores':
      return driver.runKernel(kernel, { layer, q, blocks })
    case 'partial-attention':
      return driver.runKernel(kernel, { layer, q, blocks: context.everyHead(blocks) })
    case 'choose-pages':
      return driver.runKernel(kernel, {
        layer,
        q,
        blocks,
        pages: 1,
        rivals: new Float32Array(0),
        attend: true,
      })
  }
}

function largestProduct(
  { facts, held }: KernelContext,
  q: Float32Array,
  head: number,
  kvHead: number,
  block: number,
): number {
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

interface Choice {
  readonly seed: number
  readonly blocks: Uint32Array
  readonly pages: number
  readonly rivals: number
  readonly attend: boolean
}

async function judgeChoice(
  context: KernelContext,
  { seed, blocks, pages, rivals: count, attend }: Choice,
): Promise<void> {
  const { driver, facts, layer } = context
  const q = context.queryOf(seed)
  const scores = await driver.runKernel('page-scores', { layer, q, blocks })
  const row = (head: number) => scores.subarray(head * blocks.length, (head + 1) * blocks.length)
  // Every second rival ties with one of the pages.
  const random = randomNumbers(seed)
  const rivals = Float32Array.from({ length: facts.kvHeads * count }, (_, i) =>
    i % 2 === 0 ? random() * 20 : (row(Math.floor(i / count))[i % blocks.length] ?? 0),
  )
  const choice = await driver.runKernel('choose-pages', { layer, q, blocks, pages, rivals, attend })
  equal('The number of heads that chose', choice.chosen.length, facts.kvHeads)
  for (const [head, own] of choice.chosen.entries()) {
    const all = [...row(head), ...rivals.subarray(head * count, (head + 1) * count)]
    const best = pages === 0 ? all.map((_, column) => column) : referenceTopK(all, pages)
    same('Chosen pages', own, Uint32Array.from(best.filter((column) => column < blocks.length)))
  }
  holds(Math.min(choice.relevancyUs, choice.retrievalUs, choice.applyUs) >= 0, 'Times should not be below 0.')
  equal('Whether attention is there', choice.partial !== undefined, attend)
  equal('Whether weights are there', choice.mass !== undefined, attend)
  if (choice.partial === undefined || choice.mass === undefined) return
  const chosen = choice.chosen.map((own) => own.map((i) => blocks[i] ?? 0))
  const apart = await context.attend(q, chosen)
  same('Attention to the chosen pages', choice.partial.output, apart.output)
  same('Its max', choice.partial.max, apart.max)
  same('Its sum', choice.partial.sum, apart.sum)
  for (const [head, own] of choice.mass.entries()) {
    equal('The number of weights', own.length, choice.chosen[head]?.length)
    sumsTo('Weights of the chosen pages', own, own.length === 0 ? 0 : 1)
  }
}

function sumsTo(what: string, numbers: Float32Array, sum: number): void {
  const all = numbers.reduce((total, one) => total + one, 0)
  close(`${what}, summed up`, Float32Array.of(all), Float32Array.of(sum), TOLERANCE)
}
