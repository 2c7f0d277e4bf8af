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
})
