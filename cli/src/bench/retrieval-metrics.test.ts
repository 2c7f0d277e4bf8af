import fc from 'fast-check'
import { expect, test } from 'vitest'
import { mean, ndcgAt, recallAt } from './retrieval-metrics.js'

const judgements = new Map([
  ['a', 3],
  ['b', 2],
  ['c', 3],
  ['d', 0],
  ['e', 1],
  ['f', 2],
])

test('nDCG of a ranking computed by hand', () => {
  // Gains 3, 2, 3, 0, 1, 2 at ranks 1 to 6.
  const dcg = 3 / 1 + 2 / Math.log2(3) + 3 / 2 + 0 + 1 / Math.log2(6) + 2 / Math.log2(7)
  const ideal = 3 / 1 + 3 / Math.log2(3) + 2 / 2 + 2 / Math.log2(5) + 1 / Math.log2(6)
  expect(ndcgAt(6, ['a', 'b', 'c', 'd', 'e', 'f'], judgements)).toBeCloseTo(dcg / ideal, 12)
  expect(dcg / ideal).toBeCloseTo(0.961, 3)
  // Only the first k count, in the ideal too.
  expect(ndcgAt(1, ['b', 'a'], judgements)).toBeCloseTo(2 / 3, 12)
})

test('documents that nobody judged, or judged below 0, gain nothing', () => {
  const few = new Map([
    ['a', 1],
    ['bad', -1],
  ])
  expect(ndcgAt(10, ['x', 'bad', 'a'], few)).toBeCloseTo(1 / 2, 12)
  expect(ndcgAt(10, ['x'], few)).toBe(0)
  expect(ndcgAt(10, ['a'], new Map([['a', 0]]))).toBe(0)
  expect(ndcgAt(10, [], few)).toBe(0)
})

test('recall counts relevant documents, also those that the corpus does not have', () => {
  expect(recallAt(100, ['x', 'a', 'b', 'd'], judgements)).toBe(2 / 5)
  expect(recallAt(2, ['x', 'a', 'b', 'd'], judgements)).toBe(1 / 5)
  expect(recallAt(100, ['a'], new Map([['a', 0]]))).toBe(0)
})

test('the best ranking has 1, every other at most that', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.tuple(fc.string(), fc.integer({ min: 0, max: 4 })), { selector: ([id]) => id }),
      fc.integer({ min: 1, max: 20 }),
      (grades, k) => {
        const judged = new Map(grades)
        const best = grades.toSorted((a, b) => b[1] - a[1]).map(([id]) => id)
        const hasRelevant = grades.some(([, grade]) => grade > 0)
        expect(ndcgAt(k, best, judged)).toBeCloseTo(hasRelevant ? 1 : 0, 12)
        const any = grades.map(([id]) => id)
        expect(ndcgAt(k, any, judged)).toBeLessThanOrEqual(1 + 1e-12)
      },
    ),
  )
})

test('a mean of none is no number', () => {
  expect(mean([1, 2, 6])).toBe(3)
  expect(mean([])).toBeNaN()
})
