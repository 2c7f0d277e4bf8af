import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { kvBlockBytes } from './kv-format.js'
import type { KvLayer } from './kv-layer.js'
import { KvSlabs } from './kv-slab.js'
import { EXACT, PAPER_FLOAT, PAPER_QUANTISED } from './numerics.js'

const shape = { layers: 2, kvHeads: 2, headDim: 4 }
/** Rows of `[kv heads · head dim]`, every number tells its row and column. */
const rows = (count: number, base: number) =>
  Float32Array.from({ length: count * 8 }, (_, i) => base + Math.floor(i / 8) * 10 + (i % 8))

describe('KV slabs', () => {
  it('keep tokens in wire layout: K or V, head, token, dimension', () => {
    const slabs = new KvSlabs(shape, 4)
    slabs.writeTokens(1, Uint32Array.of(3, 1), 14, rows(5, 1000), rows(5, 2000), 1, 4)
    const wire = new Float32Array(slabs.readBlocks(1, Uint32Array.of(1, 3)).buffer)
    const at = (block: number, kind: number, head: number, token: number) =>
      [...wire.subarray((((block * 2 + kind) * 2 + head) * 16 + token) * 4)].slice(0, 4)
    // Row 1 is token 14, at the end of the first block; row 3 is token 16, the second block's first.
    expect(at(1, 0, 0, 14)).toEqual([1010, 1011, 1012, 1013])
    expect(at(1, 1, 1, 15)).toEqual([2024, 2025, 2026, 2027])
    expect(at(0, 0, 1, 0)).toEqual([1034, 1035, 1036, 1037])
    expect(at(0, 1, 0, 1)).toEqual([2040, 2041, 2042, 2043])
    expect(new Float32Array(slabs.readBlocks(0, Uint32Array.of(3)).buffer).every((v) => v === 0)).toBe(true)
  })

  it('zero what an earlier sequence left behind a block’s first token', () => {
    const slabs = new KvSlabs(shape, 1)
    slabs.writeBlocks(0, Uint32Array.of(0), new Uint8Array(slabs.blockBytes).fill(0xff))
    slabs.writeTokens(0, Uint32Array.of(0), 0, rows(1, 0), rows(1, 0), 0, 1)
    expect([...slabs.layer(0).values].every(Number.isFinite)).toBe(true)
  })

  it('read back what was written, whatever the alignment of the data', () => {
    const slabs = new KvSlabs(shape, 4)
    const data = Uint8Array.from({ length: slabs.blockBytes * 2 + 3 }, (_, i) => i % 253).subarray(3)
    slabs.writeBlocks(1, Uint32Array.of(2, 0), data)
    expect(slabs.readBlocks(1, Uint32Array.of(2, 0))).toEqual(data.slice())
    const zeroBlock = slabs.layer(1).values.slice(-slabs.blockBytes / 4)
    expect([...zeroBlock].every((value) => value === 0)).toBe(true)
  })

  describe.each([
    ['f32', EXACT],
    ['int8', PAPER_QUANTISED],
  ] as const)('with bounds of pages, in %s', (_, numerics) => {
    const blockOf = (seed: number) => {
      const floats = Float32Array.from({ length: 256 }, (_, i) => Math.sin(seed * 100 + i))
      if (numerics === EXACT) return new Uint8Array(floats.buffer)
      const integers = Int8Array.from(floats, (value) => value * 127)
      return new Uint8Array([...new Uint8Array(integers.buffer), ...new Uint8Array(floats.buffer, 0, 64 * 4)])
    }
    const filled = () => {
      const slabs = new KvSlabs(shape, 6, numerics)
      for (const layer of [0, 1]) {
        for (let block = 0; block < 6; block++) {
          slabs.writeBlocks(layer, Uint32Array.of(block), blockOf(layer * 10 + block))
        }
      }
      return slabs
    }

    it('prepare them once, and again after a block was written to', () => {
      const slabs = filled()
      const blocks = Uint32Array.of(0, 3)
      expect(slabs.prepareBounds(0, blocks)).toBe(2)
      expect(slabs.prepareBounds(0, blocks)).toBe(0)
      expect(slabs.prepareBounds(1, blocks)).toBe(2)
      slabs.writeTokens(0, Uint32Array.of(0), 5, rows(1, 900), rows(1, 900), 0, 1)
      expect(slabs.prepareBounds(0, blocks)).toBe(1)
      // [kv head][min|max][dim] of keys 900…903 and 904…907 among sines.
      const bounds = slabs.readBounds(0, Uint32Array.of(0))
      const highest = [...bounds.slice(4, 8), ...bounds.slice(12)].map(Math.round)
      const step = numerics === EXACT ? 0 : 4
      for (const [i, value] of [900, 901, 902, 903, 904, 905, 906, 907].entries()) {
        expect(Math.abs((highest[i] ?? 0) - value)).toBeLessThanOrEqual(step)
      }
      expect([...bounds.slice(0, 4)].every((minimum) => minimum < 0)).toBe(true)
      slabs.writeBlocks(0, Uint32Array.of(3), blockOf(77))
      expect(slabs.prepareBounds(0, blocks)).toBe(1)
    })

    it('copy blocks of all layers as if all were read first, with the bounds that stand', () => {
      fc.assert(
        fc.property(
          fc.uniqueArray(fc.nat(5), { minLength: 1, maxLength: 6 }),
          fc.infiniteStream(fc.nat(5)),
          fc.subarray([0, 1, 2, 3, 4, 5]),
          (to, sources, given) => {
            const slabs = filled()
            const from = to.map(() => sources.next().value)
            // Bounds of another device, which the block's own keys do not give.
            const foreign = (block: number) => new Uint8Array(new Float32Array(16).fill(block + 0.5).buffer)
            for (const block of given) slabs.bounds.write(1, Uint32Array.of(block), foreign(block))
            const before = new Map(
              from.map((block) => [
                block,
                [0, 1].map((layer) => [
                  slabs.readBlocks(layer, Uint32Array.of(block)),
                  given.includes(block) && layer === 1 ? foreign(block) : undefined,
                ]),
              ]),
            )
            slabs.copyBlocks(Uint32Array.from(from), Uint32Array.from(to))
            for (const [i, block] of to.entries()) {
              for (const layer of [0, 1]) {
                const [data, bounds] = before.get(from[i] ?? 0)?.[layer] ?? []
                const target = Uint32Array.of(block)
                expect(slabs.readBlocks(layer, target)).toEqual(data)
                if (bounds === undefined) continue
                expect(new Uint8Array(slabs.readBounds(layer, target).buffer)).toEqual(bounds)
              }
            }
          },
        ),
      )
    })
  })

  describe('in int8', () => {
    const numbers = fc.oneof(fc.float({ noNaN: true, min: -100, max: 100 }), fc.constantFrom(0, 1.4e-36, 1e-38, 3e-42))
    const token = fc.array(numbers, { minLength: 8, maxLength: 8 })
    const blocks = Uint32Array.of(2, 0)
    const fill = (slabs: KvSlabs, tokens: readonly (readonly number[])[]) => {
      const rowsOf = Float32Array.from(tokens.flat())
      slabs.writeTokens(
        1,
        blocks,
        0,
        rowsOf,
        rowsOf.map((value) => -value),
        0,
        tokens.length,
      )
    }

    it('are on the wire the same bytes whether the pool is f32 or int8, however often they are moved', () => {
      fc.assert(
        fc.property(fc.array(token, { minLength: 1, maxLength: 32 }), (tokens) => {
          const float = new KvSlabs(shape, 4, PAPER_FLOAT)
          const packed = new KvSlabs(shape, 4, PAPER_QUANTISED)
          fill(float, tokens)
          fill(packed, tokens)
          const wire = float.readBlocks(1, blocks)
          expect(wire).toHaveLength(2 * kvBlockBytes(shape, 'int8'))
          expect(packed.readBlocks(1, blocks)).toEqual(wire)
          for (const numerics of [PAPER_FLOAT, PAPER_QUANTISED]) {
            const other = new KvSlabs(shape, 4, numerics)
            const data = new Uint8Array(wire.length + 1).subarray(1)
            data.set(wire)
            other.writeBlocks(1, Uint32Array.of(3, 1), data)
            expect(other.readBlocks(1, Uint32Array.of(3, 1))).toEqual(wire)
          }
        }),
      )
    })

    it('differ from what was written by half a step of the largest number, or are less than any step', () => {
      const smallest = 127 * 2 ** -126
      fc.assert(
        fc.property(token, (values) => {
          const slabs = new KvSlabs(shape, 4, PAPER_QUANTISED)
          fill(slabs, [values])
          for (const head of [0, 1]) {
            const row = values.slice(head * 4, head * 4 + 4)
            const step = Math.max(...row.map(Math.abs)) / 127
            const kept = slabs.layer(1).readRun(slabs.keyRun(2, head))
            for (const [i, value] of row.entries()) {
              expect(Math.abs((kept[i] ?? 0) - value)).toBeLessThanOrEqual(Math.max(step * 0.51, smallest))
            }
          }
        }),
      )
    })

    it('take about a quarter of the memory, bounds beside', () => {
      const wide = { layers: 1, kvHeads: 2, headDim: 128 }
      const [float, packed] = [new KvSlabs(wide, 8, PAPER_FLOAT), new KvSlabs(wide, 8, PAPER_QUANTISED)]
      const bytes = ({ values, scales }: KvLayer) => values.byteLength + (scales?.byteLength ?? 0)
      expect(bytes(packed.layer(0)) / bytes(float.layer(0))).toBeLessThan(0.26)
      expect(packed.poolBlockBytes / float.poolBlockBytes).toBeLessThan(0.26)
      expect(packed.blockBytes).toBe(float.blockBytes)
    })

    it('have bounds of the keys that the pool holds', () => {
      const slabs = new KvSlabs(shape, 4, PAPER_QUANTISED)
      fill(
        slabs,
        Array.from({ length: 16 }, (_, i) => Array.from({ length: 8 }, (_, d) => Math.sin(i * 8 + d))),
      )
      const keys = slabs.layer(1).readRun(slabs.keyRun(2, 1)).slice()
      const bounds = slabs.readBounds(1, Uint32Array.of(2))
      for (const d of [0, 1, 2, 3]) {
        const channel = Array.from({ length: 16 }, (_, i) => keys[i * 4 + d] ?? 0)
        expect(bounds[8 + d]).toBe(Math.min(...channel))
        expect(bounds[12 + d]).toBe(Math.max(...channel))
      }
    })
  })

  it('that the machine cannot hold are refused with what to change', () => {
    expect(() => new KvSlabs(shape, 1e12)).toThrow(/cannot give \d+ bytes .* choose a smaller tier/)
  })
})
