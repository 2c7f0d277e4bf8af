/** Steps that attend to some pages only: which pages these are, and what does not change. */
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { BLOCK_TOKENS, type SparseAttention, type StepSequence } from './device-driver.js'
import { EXACT, PAPER_QUANTISED } from './numerics.js'
import { type StepHooks, Transformer } from './transformer.js'

const hooks: StepHooks = { onLayer: () => {}, between: () => false }
const PROMPT = 200
const pagesOf = (position: number) => Math.floor(position / BLOCK_TOKENS) + 1
const range = (from: number, count: number) => Uint32Array.from({ length: count }, (_, i) => from + i)
const bits = (values: Float32Array) =>
  createHash('sha256')
    .update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
    .digest('hex')

describe.each([
  ['skald', EXACT],
  ['dummy:llama-tiny', EXACT],
  ['dummy:llama-tiny', PAPER_QUANTISED],
] as const)('%s, %o', (name, numerics) => {
  let model: Transformer
  let tokens: number[]
  const blocks = range(40, 20).reverse()

  beforeAll(async () => {
    model = await Transformer.load({ model: name, numerics, kvBlocksMax: 128 }, { threads: 1 }, () => false)
    tokens = Array.from({ length: PROMPT + 1 }, (_, i) => (i * i * 31 + i * 17) % model.facts.vocabularySize)
    const whole = Uint32Array.from(tokens.slice(0, PROMPT))
    await model.step([{ blocks, start: 0, tokens: whole, wantLogits: false }], hooks)
  })

  const decode = (changes: Partial<StepSequence> = {}): StepSequence => ({
    blocks,
    start: PROMPT,
    tokens: Uint32Array.of(tokens[PROMPT] ?? 0),
    wantLogits: true,
    ...changes,
  })
  const sparse = (method: SparseAttention['method'], pages: number, seed = 1) => ({
    attention: { method, pages, seed },
  })
  const all = pagesOf(PROMPT)

  it.each(['page-bounds', 'random', 'recent'] as const)(
    'has the bits of dense attention with %s over all pages',
    async (method) => {
      const dense = await model.step([decode()], hooks)
      for (const pages of [all, all + 1, 1_000]) {
        const result = await model.step([decode(sparse(method, pages))], hooks)
        expect(bits(result.logits)).toBe(bits(dense.logits))
      }
    },
  )

  it('does not change a bit by measuring pages', async () => {
    for (const attention of [{}, sparse('page-bounds', 4), sparse('random', 3)]) {
      const plain = await model.step([decode(attention)], hooks)
      const measured = await model.step([decode({ ...attention, trackPages: true })], hooks)
      expect(bits(measured.logits)).toBe(bits(plain.logits))
      expect(plain.attention).toEqual([undefined])
      expect(measured.attention[0]).toBeDefined()
    }
  })

  it('gives each sequence the same bits alone and in a batch of all kinds', async () => {
    const kinds = fc.constantFrom<Partial<StepSequence>>(
      {},
      { trackPages: true },
      sparse('page-bounds', 2),
      { ...sparse('page-bounds', 5), trackPages: true },
      sparse('random', 3, 9),
      sparse('recent', 4),
      sparse('page-bounds', 1),
    )
    const alone = new Map<string, string>()
    // The pages are shared but for the newest, which each writes its own token's K and V to.
    const placed = (kind: Partial<StepSequence>, i: number) => {
      const own = Uint32Array.from(blocks, (block, page) => (page === all - 1 ? 110 + i : block))
      model.slabs.copyBlocks(blocks.subarray(all - 1, all), Uint32Array.of(110 + i))
      return decode({ ...kind, blocks: own })
    }
    await fc.assert(
      fc.asyncProperty(
        fc.array(kinds, { minLength: 2, maxLength: 8 }),
        fc.boolean(),
        async (batch, withChunk) => {
          const sequences = batch.map(placed)
          const chunk = { blocks: range(80, 3), start: 0, tokens: range(1, 40), wantLogits: true }
          const { logits } = await model.step(withChunk ? [chunk, ...sequences] : sequences, hooks)
          const width = model.facts.vocabularySize
          for (const [i, kind] of batch.entries()) {
            const key = JSON.stringify(kind)
            if (!alone.has(key)) alone.set(key, bits((await model.step([placed(kind, 9)], hooks)).logits))
            const row = i + (withChunk ? 1 : 0)
            expect(bits(logits.subarray(row * width, (row + 1) * width))).toBe(alone.get(key))
          }
        },
      ),
      { numRuns: 12 },
    )
  })

  it('attends to the newest page and as many as the budget says, and tells which', async () => {
    for (const method of ['page-bounds', 'random', 'recent'] as const) {
      for (const pages of [1, 2, 5, all]) {
        const { attention } = await model.step(
          [decode({ ...sparse(method, pages), trackPages: true })],
          hooks,
        )
        const [use] = attention
        const heads = model.facts.layers * model.facts.kvHeads
        expect(use).toMatchObject({ pages: all * heads, pagesRead: pages * heads, wireBytes: 0, remoteUs: 0 })
        expect(use?.reads).toHaveLength(blocks.length)
        expect(use?.reads[all - 1]).toBe(1)
        expect(sum(use?.reads)).toBeCloseTo(pages, 4)
        expect(sum(use?.mass)).toBeCloseTo(1, 4)
        expect([...(use?.mass ?? [])].slice(all).every((mass) => mass === 0)).toBe(true)
      }
    }
  })

  it('reads the last pages with recent, and others with another seed at random', async () => {
    const readsOf = async (attention: ReturnType<typeof sparse>) =>
      (await model.step([decode({ ...attention, trackPages: true })], hooks)).attention[0]?.reads
    const recent = await readsOf(sparse('recent', 3))
    expect([...(recent ?? [])].slice(all - 4, all + 1)).toEqual([0, 1, 1, 1, 0])
    const random = await readsOf(sparse('random', 3, 1))
    expect(await readsOf(sparse('random', 3, 1))).toEqual(random)
    expect(await readsOf(sparse('random', 3, 2))).not.toEqual(random)
    // Different layers and heads draw differently.
    expect([...(random ?? [])].filter((share) => share > 0).length).toBeGreaterThan(3)
  })

  it('finds with page bounds the pages that weigh most more often than chance does', async () => {
    const massOf = async (attention: ReturnType<typeof sparse>) => {
      const { attention: uses } = await model.step([decode({ ...attention, trackPages: true })], hooks)
      return uses[0]?.reads ?? new Float32Array(0)
    }
    const [dense] = (await model.step([decode({ trackPages: true })], hooks)).attention
    const found = (reads: Float32Array) =>
      reads.reduce(
        (total, share, page) => total + (page === all - 1 ? 0 : share * (dense?.mass[page] ?? 0)),
        0,
      )
    const byBounds = found(await massOf(sparse('page-bounds', 4)))
    const byChance = [1, 2, 3, 4, 5].map(async (seed) => found(await massOf(sparse('random', 4, seed))))
    const mean = (await Promise.all(byChance)).reduce((a, b) => a + b, 0) / 5
    expect(byBounds).toBeGreaterThan(mean)
  })

  it('prepares bounds once, and anew after a block was written', async () => {
    const copy = range(100, all)
    model.slabs.copyBlocks(blocks.subarray(0, all), copy)
    const run = async () => {
      const part = decode({ ...sparse('page-bounds', 3), blocks: copy, trackPages: true })
      const { logits, attention } = await model.step([part], hooks)
      return { logits: bits(logits), use: attention[0] }
    }
    const first = await run()
    const second = await run()
    expect(second.logits).toBe(first.logits)
    for (let layer = 0; layer < model.facts.layers; layer++) {
      model.slabs.writeBlocks(
        layer,
        copy.subarray(0, 4),
        model.slabs.readBlocks(layer, blocks.subarray(4, 8)),
      )
    }
    const changed = await run()
    for (let layer = 0; layer < model.facts.layers; layer++) {
      model.slabs.writeBlocks(
        layer,
        copy.subarray(0, 4),
        model.slabs.readBlocks(layer, blocks.subarray(0, 4)),
      )
    }
    const back = await run()
    expect(changed.logits).not.toBe(first.logits)
    expect(back.logits).toBe(first.logits)
  })

  it.each([0, 1.5, Number.NaN])('refuses a budget of %s pages', async (pages) => {
    await expect(model.step([decode(sparse('recent', pages))], hooks)).rejects.toThrow('1 page or more')
  })

  it('attends densely where several tokens are new', async () => {
    const part = {
      blocks: range(80, 8),
      start: 0,
      tokens: Uint32Array.from(tokens.slice(0, 100)),
      wantLogits: true,
    }
    const dense = await model.step([part], hooks)
    const asked = await model.step([{ ...part, ...sparse('recent', 1), trackPages: true }], hooks)
    expect(bits(asked.logits)).toBe(bits(dense.logits))
    expect(asked.attention).toEqual([undefined])
  })
})

function sum(values: Float32Array | undefined): number {
  return (values ?? new Float32Array(0)).reduce((a, b) => a + b, 0)
}
