import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { attentionAt } from './attention-budget.js'

describe('pages at a position', () => {
  const pagesAt = (tokens: number, share: number, position: number) => {
    const budget = tokens > 0 ? { tokens } : { share }
    return attentionAt({ method: 'page-bounds', budget }, position, 0n).pages
  }

  it('are whole pages of the budget', () => {
    expect(pagesAt(1, 0, 1_000)).toBe(1)
    expect(pagesAt(16, 0, 1_000)).toBe(1)
    expect(pagesAt(17, 0, 1_000)).toBe(2)
    expect(pagesAt(512, 0, 1_000)).toBe(32)
    expect(pagesAt(512, 0, 20)).toBe(2)
    expect(pagesAt(0, 0.25, 16 * 16 - 1)).toBe(4)
    expect(pagesAt(0, 0.25, 16 * 16)).toBe(5)
    // 0.07 · 100 is 7.000000000000001 in binary fractions.
    expect(pagesAt(0, 0.07, 1_599)).toBe(7)
  })

  it('are never none, never more than there are, and all at a share of 1', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 100_000 }),
        fc.integer({ min: 1, max: 100_000 }),
        fc.double({ min: 1e-6, max: 1, noNaN: true }),
        (position, tokens, share) => {
          const all = Math.floor(position / 16) + 1
          for (const pages of [pagesAt(tokens, 0, position), pagesAt(0, share, position)]) {
            expect(pages).toBeGreaterThanOrEqual(1)
            expect(pages).toBeLessThanOrEqual(all)
          }
          expect(pagesAt(0, 1, position)).toBe(all)
        },
      ),
    )
  })
})
