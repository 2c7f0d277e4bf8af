import fc from 'fast-check'
import { expect, test } from 'vitest'
import { numberText, tickTexts } from './number-text.js'
import { axisOf } from './plot-axis.js'

test.each([
  [0, '0'],
  [1_234_567.89, '1,234,568'],
  [12.34567, '12.35'],
  [0.00123456, '0.001235'],
  [-42, '-42'],
  [3.2e-9, '3.20e-9'],
  [4e15, '4.00e15'],
  [Number.NaN, '–'],
])('%d reads %s', (value, text) => {
  expect(numberText(value)).toBe(text)
})

test('ticks of one axis share their letter', () => {
  expect(tickTexts([0, 5_000, 10_000, 15_000], 'linear')).toEqual(['0', '5k', '10k', '15k'])
  expect(tickTexts([0, 2_000, 4_000], 'linear')).toEqual(['0', '2,000', '4,000'])
  expect(tickTexts([1, 1_000, 1e6], 'log')).toEqual(['1', '1,000', '1M'])
  expect(tickTexts([0.1, 0.2, 0.1 + 0.2], 'linear')).toEqual(['0.1', '0.2', '0.3'])
})

test('ticks lie within their axis, are not too many, and read differently', () => {
  const values = fc.array(fc.double({ min: 1e-6, max: 1e12, noNaN: true }), { minLength: 1, maxLength: 20 })
  fc.assert(
    fc.property(values, fc.constantFrom('linear' as const, 'log' as const), (numbers, scale) => {
      const axis = axisOf({ values: numbers, scale, zeroShare: 0.4, pad: 0.05, ticksMax: 6 })
      const [min, max] = axis.domain
      for (const number of numbers) expect(number).toSatisfy((each: number) => each >= min && each <= max)
      for (const tick of axis.ticks) expect(tick).toSatisfy((each: number) => each >= min && each <= max)
      expect(axis.ticks.length).toBeLessThanOrEqual(12)
      expect(axis.ticks.length).toBeGreaterThanOrEqual(1)
      const span = max / min
      if (span > 1.001 || min <= 0) expect(new Set(tickTexts(axis.ticks, scale)).size).toBe(axis.ticks.length)
    }),
  )
})
