import fc from 'fast-check'
import { expect, test } from 'vitest'
import { blockRuns } from './block-runs.js'

test('blocks that follow each other make one run', () => {
  expect([...blockRuns(Uint32Array.of(4, 5, 6, 2, 9, 10))]).toEqual([
    { at: 0, first: 4, count: 3 },
    { at: 3, first: 2, count: 1 },
    { at: 4, first: 9, count: 2 },
  ])
  expect([...blockRuns(new Uint32Array(0))]).toEqual([])
})

test('the runs give back the list, and no two of them could be one', () => {
  fc.assert(
    fc.property(fc.uint32Array({ max: 12, maxLength: 40 }), (ids) => {
      const runs = [...blockRuns(ids)]
      expect(runs.flatMap(({ first, count }) => Array.from({ length: count }, (_, i) => first + i))).toEqual([
        ...ids,
      ])
      for (const [i, run] of runs.entries()) {
        expect(run.at).toBe(runs.slice(0, i).reduce((sum, { count }) => sum + count, 0))
        expect(runs[i + 1]?.first).not.toBe(run.first + run.count)
      }
    }),
  )
})
