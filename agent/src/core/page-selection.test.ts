import fc from 'fast-check'
import { expect, it } from 'vitest'
import { firstFew } from './page-selection.js'

it('gives what sorting all would give', () => {
  const items = fc.array(fc.record({ rank: fc.nat(5), name: fc.nat() }))
  fc.assert(
    fc.property(items, fc.nat(8), (all, count) => {
      const byRank = (a: { rank: number }, b: { rank: number }) => a.rank - b.rank
      expect(firstFew(all, count, byRank)).toEqual([...all].sort(byRank).slice(0, count))
    }),
  )
})

it('compares most of many items once', () => {
  let compared = 0
  const items = Array.from({ length: 10_000 }, (_, index) => (index * 7_919) % 10_000)
  firstFew(items, 32, (a, b) => {
    compared += 1
    return a - b
  })
  expect(compared).toBeLessThan(15_000)
})
