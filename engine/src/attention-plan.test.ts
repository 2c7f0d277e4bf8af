import { describe, expect, it } from 'vitest'
import { planAttention, type Query } from './attention-plan.js'
import { KvSlabs } from './kv-slab.js'

const shape = { layers: 1, heads: 6, kvHeads: 2, headDim: 4 }
const slabs = new KvSlabs(shape, 1000)
const blocksFor = (tokens: number, first: number) =>
  Uint32Array.from({ length: Math.ceil(tokens / 16) + 2 }, (_, i) => first + i)
const decode = (position: number, first = 0): Query => ({
  blocks: blocksFor(position + 1, first),
  position,
  rows: 1,
})

describe('attention calls', () => {
  it('are shared by sequences of about one length, short ones padded with zero blocks', () => {
    const calls = planAttention(
      [decode(3, 10), decode(40, 20), decode(300, 30), decode(3000, 50)],
      shape,
      slabs,
    )
    expect(calls.map(({ rowStart, batch, keys }) => ({ rowStart, batch, keys }))).toEqual([
      { rowStart: 0, batch: 2, keys: 48 },
      { rowStart: 2, batch: 1, keys: 304 },
      { rowStart: 3, batch: 1, keys: 3008 },
    ])
    const [first] = calls
    const zero = slabs.keyRun(slabs.zeroBlock, 1)
    expect([...(first?.keyRuns ?? [])].slice(3, 6)).toEqual([slabs.keyRun(10, 1), zero, zero])
    expect(first?.valueRuns[0]).toBe(slabs.valueRun(10, 0))
    const visible = [...(first?.mask ?? [])].slice(0, 48).filter((value) => value === 0)
    expect(visible).toHaveLength(4)
  })

  it('are not shared by more than what is gathered for fits the cache', () => {
    const wide = { ...shape, kvHeads: 8, headDim: 64 }
    const large = new KvSlabs({ ...wide, layers: 1 }, 1)
    const sequences = Array.from({ length: 20 }, () => decode(1000))
    const calls = planAttention(sequences, wide, large)
    const gathered = calls.map(({ batch, keys }) => 2 * batch * keys * wide.kvHeads * wide.headDim * 4)
    expect(Math.max(...gathered)).toBeLessThanOrEqual(8 << 20)
    expect(calls.map(({ rowStart, batch }) => [rowStart, batch])).toEqual([
      [0, 2],
      [2, 2],
      [4, 2],
      [6, 2],
      [8, 2],
      [10, 2],
      [12, 2],
      [14, 2],
      [16, 2],
      [18, 2],
    ])
    // A longer one has a call of its own, and shorter ones share one.
    expect(planAttention([decode(20_000), decode(20_000)], wide, large)).toHaveLength(2)
    expect(
      planAttention(
        sequences.slice(0, 4).map(() => decode(100)),
        wide,
        large,
      ),
    ).toHaveLength(1)
  })

  it('of a prompt see each token up to itself, and are cut where the scores grow large', () => {
    const [whole] = planAttention([{ blocks: blocksFor(40, 0), position: 20, rows: 15 }], shape, slabs)
    expect(whole).toMatchObject({ rows: 15, queryRows: 15, keys: 48, doubled: false })
    for (let row = 0; row < 15; row++) {
      const mask = whole?.mask.subarray(row * 48, (row + 1) * 48) ?? []
      expect([...mask].lastIndexOf(0)).toBe(20 + row)
    }
    const large = planAttention([{ blocks: blocksFor(16_000, 0), position: 14_000, rows: 256 }], shape, slabs)
    expect(large.length).toBeGreaterThan(4)
    expect(large.reduce((sum, { rows }) => sum + rows, 0)).toBe(256)
    expect(large.every(({ queryRows, keys }) => queryRows * keys * shape.heads <= 4 << 20)).toBe(true)
    expect(large[1]).toMatchObject({ rowStart: large[0]?.rows })
  })

  it('double a lone query row where no group of heads makes it two', () => {
    const single = { ...shape, heads: 2 }
    const [call] = planAttention([decode(5)], single, slabs)
    expect(call).toMatchObject({ doubled: true, queryRows: 2, rows: 1 })
    expect(call?.mask.subarray(0, 16)).toEqual(call?.mask.subarray(16, 32))
    expect(planAttention([decode(5)], shape, slabs)[0]?.doubled).toBe(false)
  })

  it('with a window see its tokens alone and begin at a multiple of 128 keys, 16,384 ÷ dim', () => {
    const narrow = { ...shape, headDim: 128 }
    const window = 200
    const at = (position: number) => planAttention([decode(position)], narrow, slabs, { window })[0]
    for (const [position, firstPage] of [
      [100, 0],
      [326, 0],
      [327, 8],
      [455, 16],
      [1000, 48],
    ] as const) {
      const call = at(position)
      expect(call?.firstPages).toEqual([firstPage])
      expect(call?.keyRuns[0]).toBe(slabs.keyRun(firstPage, 0))
      const seen = [...(call?.mask ?? [])].flatMap((value, key) =>
        value === 0 ? [key + firstPage * 16] : [],
      )
      const first = Math.max(0, position - 199)
      expect(seen).toEqual(Array.from({ length: position + 1 - first }, (_, i) => first + i))
    }
    const dim32 = planAttention([decode(1000)], { ...shape, headDim: 32 }, slabs, { window })[0]
    expect(dim32?.firstPages).toEqual([32])
  })

  it('with a window are shared by long sequences whatever their lengths', () => {
    const narrow = { ...shape, headDim: 128 }
    const queries = [decode(900), decode(1500), decode(15_000)]
    const calls = planAttention(queries, narrow, slabs, { window: 200 })
    expect(calls.map(({ batch, keys, firstPages }) => ({ batch, keys, firstPages }))).toEqual([
      { batch: 3, keys: 288, firstPages: [40, 80, 920] },
    ])
    // A prompt's rows have windows of their own, those of a row the first that any of them sees.
    const [prompt] = planAttention([{ ...decode(700), rows: 40 }], narrow, slabs, { window: 200 })
    expect(prompt).toMatchObject({ firstPages: [24], keys: 368 })
    for (let row = 0; row < 40; row++) {
      const mask = [...(prompt?.mask.subarray(row * 368, (row + 1) * 368) ?? [])]
      expect([mask.indexOf(0), mask.lastIndexOf(0)]).toEqual([700 + row - 199 - 384, 700 + row - 384])
    }
  })
})
