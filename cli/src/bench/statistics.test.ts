import fc from 'fast-check'
import { expect, test } from 'vitest'
import { median, rounded, unionLength } from './statistics.js'

test('the median is the middle, or the mean of the two middle values', () => {
  expect(median([3, 1, 2])).toBe(2)
  expect(median([4, 1, 3, 2])).toBe(2.5)
  expect(median([])).toBeNaN()
})

test('overlapping intervals are counted once', () => {
  expect(
    unionLength([
      [0, 10],
      [5, 12],
      [20, 21],
      [20.5, 20.75],
    ]),
  ).toBe(13)
})

test('a union is at most the sum, at least the longest, and no matter of order', () => {
  const interval = fc.tuple(fc.nat(100), fc.nat(100)).map(([from, length]) => [from, from + length] as const)
  fc.assert(
    fc.property(fc.array(interval, { minLength: 1 }), (intervals) => {
      const lengths = intervals.map(([from, to]) => to - from)
      const union = unionLength(intervals)
      expect(union).toBeLessThanOrEqual(lengths.reduce((sum, length) => sum + length, 0))
      expect(union).toBeGreaterThanOrEqual(Math.max(...lengths))
      expect(unionLength([...intervals].reverse())).toBe(union)
    }),
  )
})

test('figures are rounded to four digits', () => {
  expect(rounded(1.234567)).toBe(1.235)
  expect(rounded(123456)).toBe(123500)
})
