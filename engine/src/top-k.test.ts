import fc from 'fast-check'
import { expect, it } from 'vitest'
import { referenceTopK } from './testing/reference-kernels.js'
import { largestColumns, topK } from './top-k.js'

const value = fc.oneof(fc.integer({ min: -2, max: 2 }), fc.float({ noNaN: true }))

it('finds the largest, of equal ones the first, in ascending order', () => {
  fc.assert(
    fc.property(fc.array(value, { maxLength: 200 }), fc.nat(210), (values, k) => {
      const row = Float32Array.from(values)
      expect([...largestColumns(row, k)]).toEqual(referenceTopK(row, k))
    }),
    { numRuns: 500 },
  )
})

it('gives as many as it was asked for though some are no numbers, and leaves the row as it is', () => {
  const row = Float32Array.of(Number.NaN, 3, Number.NaN, 5, Number.NEGATIVE_INFINITY)
  expect([...largestColumns(row, 3)]).toEqual([0, 1, 3])
  expect(row).toEqual(Float32Array.of(Number.NaN, 3, Number.NaN, 5, Number.NEGATIVE_INFINITY))
})

it('takes rows apart', () => {
  expect([...topK(Float32Array.of(1, 2, 3, 6, 5, 4), 2, 2)]).toEqual([1, 2, 0, 1])
  expect(topK(new Float32Array(0), 2, 4)).toHaveLength(0)
})

it('takes a moment for many columns, sorted, reversed or all the same', () => {
  for (const of of [(i: number) => i, (i: number) => -i, () => 7]) {
    const row = Float32Array.from({ length: 65_536 }, (_, i) => of(i))
    expect(largestColumns(row, 1_000)).toHaveLength(1_000)
  }
})
