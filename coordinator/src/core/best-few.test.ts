import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BestFew } from './best-few.js'

test('keeps the best, equal ones in order, whichever way they come', () => {
  const anyScores = fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 30 })
  fc.assert(
    fc.property(anyScores, fc.integer({ min: 1, max: 6 }), fc.integer(), (scores, max, seed) => {
      const all = scores.map((score, order) => ({ score, order }))
      const few = new BestFew<(typeof all)[number]>(max)
      const shuffled = all.toSorted((a, b) => ((a.order * 7919 + seed) % 31) - ((b.order * 7919 + seed) % 31))
      for (const item of shuffled) {
        const before = few.items.slice()
        const isWanted = few.isWanted(item.score, item.order)
        few.add(item, item.score, item.order)
        expect(few.items.includes(item)).toBe(isWanted)
        if (!isWanted) expect(few.items).toEqual(before)
        if (item.score > few.limit) expect(isWanted).toBe(false)
      }
      const best = all.toSorted((a, b) => a.score - b.score || a.order - b.order).slice(0, max)
      expect(few.items).toEqual(best)
    }),
  )
})
