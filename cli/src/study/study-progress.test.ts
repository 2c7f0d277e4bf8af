import { expect, test } from 'vitest'
import { timeLeft } from './study-progress.js'

test.each([
  [0.25, 10_000, 'about 30 s left'],
  [0.5, 600_000, 'about 10 min left'],
  [0.1, 3_600_000, 'about 9 h 0 min left'],
  [0.99, 1_500, 'about 1 s left'],
])('at a share of %d after %d ms: %s', (share, tookMs, text) => {
  expect(timeLeft(share, tookMs)).toBe(text)
})

test('nothing is said before anything can be known, nor at the end', () => {
  expect(timeLeft(0.5, 10)).toBe('')
  expect(timeLeft(0.001, 60_000)).toBe('')
  expect(timeLeft(1, 60_000)).toBe('')
})
