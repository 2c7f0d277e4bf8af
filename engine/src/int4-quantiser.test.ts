import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { createInt4Quantiser, INT4_BLOCK, type Int4Quantiser } from './int4-quantiser.js'

let quantiser: Int4Quantiser
beforeAll(async () => {
  quantiser = await createInt4Quantiser()
})

/** Quantises whole blocks and gives what they stand for, with the integers −8 … 7. */
function roundTrip(values: readonly number[]) {
  quantiser.values.set(values)
  const { quants, scales } = quantiser.run(values.length / INT4_BLOCK)
  const integers = values.map((_, i) => (((quants[i >> 1] ?? 0) >> (4 * (i % 2))) & 15) - 8)
  return { integers, kept: integers.map((integer, i) => integer * (scales[Math.floor(i / INT4_BLOCK)] ?? 0)) }
}

const squaredError = (values: readonly number[], kept: readonly number[]) =>
  values.reduce((sum, value, i) => sum + (Math.fround(value) - (kept[i] ?? 0)) ** 2, 0)

/** The element of largest magnitude becomes −8: the plain way. */
function plain(values: readonly number[]): number[] {
  const largest = values.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0)
  const scale = largest / -8
  return values.map((value) =>
    scale === 0 ? 0 : Math.max(-8, Math.min(7, Math.round(value / scale))) * scale,
  )
}

const block = fc.array(fc.float({ noNaN: true, min: -4, max: 4 }), {
  minLength: INT4_BLOCK,
  maxLength: INT4_BLOCK,
})

describe('weights in 4 bits', () => {
  it('stand no farther from the weights than with the plain scale', () => {
    fc.assert(
      fc.property(block, (values) => {
        const { kept } = roundTrip(values)
        const total = values.reduce((sum, value) => sum + value * value, 0)
        expect(squaredError(values, kept)).toBeLessThanOrEqual(
          squaredError(values, plain(values)) + total * 1e-6,
        )
      }),
    )
  })

  it('have less error than the plain scale gives where weights are spread as they are in models', () => {
    let state = 1
    const uniform = () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return (state + 1) / 2 ** 32
    }
    const values = Array.from(
      { length: 64 * INT4_BLOCK },
      () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
    )
    const blocks = Array.from({ length: 64 }, (_, i) => values.slice(i * INT4_BLOCK, (i + 1) * INT4_BLOCK))
    const ratio = squaredError(values, roundTrip(values).kept) / squaredError(values, blocks.flatMap(plain))
    expect(ratio).toBeLessThan(0.95)
  })

  it('depend on their own block alone', () => {
    fc.assert(
      fc.property(fc.array(block, { minLength: 2, maxLength: 5 }), (blocks) => {
        const together = roundTrip(blocks.flat()).kept
        expect(together).toEqual(blocks.flatMap((values) => roundTrip(values).kept))
      }),
    )
  })

  it('that are zero stay zero, and integers on a grid stay what they are', () => {
    expect(roundTrip(Array.from({ length: INT4_BLOCK }, () => 0)).kept.every((value) => value === 0)).toBe(
      true,
    )
    const grid = Array.from({ length: INT4_BLOCK }, (_, i) => ((i % 16) - 8) / 4)
    expect(roundTrip(grid).kept).toEqual(grid)
  })
})
