import { expect, test } from 'vitest'
import { pullTimingOf } from './pull-timing.js'

test('a measurement chooses when KV is sent; anything else is refused by name', () => {
  expect(pullTimingOf({})).toEqual({})
  expect(pullTimingOf({ 'x-kvasir-pull-timing': 'after-prefill' })).toEqual({ pullTiming: 'after-prefill' })
  expect(() => pullTimingOf({ 'x-kvasir-pull-timing': 'later' })).toThrow(/x-kvasir-pull-timing/)
})
