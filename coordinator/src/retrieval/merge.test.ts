import fc from 'fast-check'
import { expect, test } from 'vitest'
import { mergeBest } from './merge.js'

test('the best of the shards are the best of all, however the documents were cut', () => {
  const scores = fc.array(fc.integer({ min: 1, max: 5 }), { maxLength: 40 })
  fc.assert(
    fc.property(
      scores,
      fc.array(fc.nat(40), { maxLength: 4 }),
      fc.integer({ min: 1, max: 50 }),
      (all, cuts, k) => {
        const documents = all.map((score, document) => ({ document, score }))
        const ends = [...cuts.map((cut) => Math.min(cut, all.length)), all.length].sort((a, b) => a - b)
        const shards = ends.map((end, at) => documents.slice(ends[at - 1] ?? 0, end))
        const best = mergeBest([documents], k)
        expect(mergeBest(shards.map((shard) => mergeBest([shard], k)).toReversed(), k)).toEqual(best)
        expect(best).toHaveLength(Math.min(k, all.length))
      },
    ),
  )
})
