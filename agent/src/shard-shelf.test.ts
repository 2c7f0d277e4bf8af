import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { CheckedShard } from './shard-requests.js'
import { ShardShelf } from './shard-shelf.js'

const shard = (corpusKey: string, version: bigint, part = 0): CheckedShard => ({
  corpus: { name: corpusKey, tenantSalt: Buffer.alloc(0) },
  corpusKey,
  version,
  range: { firstDocument: part, documentCount: 1 },
  key: `${corpusKey}/${version}/${part}`,
})

class HandClock {
  ms = 0
  nowMs = () => this.ms
  wallMs = () => this.ms
}

describe('room for shards', () => {
  test('is never more than there is, whatever comes and goes', () => {
    const step = fc.record({
      what: fc.constantFrom('load', 'search', 'unload', 'wait'),
      corpus: fc.constantFrom('a', 'b', 'c'),
      version: fc.bigInt({ min: 1n, max: 3n }),
      bytes: fc.integer({ min: 1, max: 120 }),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const clock = new HandClock()
        const shelf = new ShardShelf(100, clock)
        const held = new Map<string, number>()
        for (const { what, corpus, version, bytes } of steps) {
          const wanted = shard(corpus, version)
          if (what === 'wait') clock.ms += 40_000
          if (what === 'unload') {
            expect(shelf.remove(wanted.key)).toBe(held.get(wanted.key) ?? 0)
            held.delete(wanted.key)
          }
          if (what === 'search') {
            const end = shelf.search(wanted.key)
            expect(end !== undefined).toBe(held.has(wanted.key))
            end?.()
          }
          if (what === 'load' && !held.has(wanted.key)) {
            try {
              for (const gone of shelf.reserve(wanted, bytes)) held.delete(gone)
              held.set(wanted.key, bytes)
              shelf.arrived(wanted.key)
            } catch {
              // It did not fit, and nothing went for it.
            }
          }
          const sum = [...held.values()].reduce((total, each) => total + each, 0)
          expect(shelf.usedBytes).toBe(sum)
          expect(sum).toBeLessThanOrEqual(100)
        }
      }),
    )
  })

  test('is made from earlier versions first, then from what was not searched for a minute', () => {
    const clock = new HandClock()
    const shelf = new ShardShelf(100, clock)
    const take = (wanted: CheckedShard, bytes: number) => {
      const gone = shelf.reserve(wanted, bytes)
      shelf.arrived(wanted.key)
      return gone
    }
    take(shard('old', 1n), 40)
    clock.ms = 30_000
    take(shard('other', 1n), 40)
    clock.ms = 61_000
    expect(take(shard('other', 2n), 50)).toEqual(['other/1/0'])
    expect(take(shard('third', 1n), 50)).toEqual(['old/1/0'])
    expect(() => take(shard('fourth', 1n), 10)).toThrowError(expect.objectContaining({ code: 'overloaded' }))
  })

  test('is not made from a shard that is searched or on its way, nor where it would not suffice', () => {
    const clock = new HandClock()
    const shelf = new ShardShelf(100, clock)
    shelf.reserve(shard('a', 1n), 50)
    shelf.reserve(shard('b', 1n), 50)
    shelf.arrived('b/1/0')
    const end = shelf.search('b/1/0')
    clock.ms = 100_000
    expect(() => shelf.reserve(shard('b', 2n), 50)).toThrowError(
      expect.objectContaining({ code: 'overloaded' }),
    )
    end?.()
    clock.ms = 200_000
    expect(() => shelf.reserve(shard('c', 1n), 60)).toThrowError(
      expect.objectContaining({ code: 'overloaded' }),
    )
    expect(shelf.bytesOf('b/1/0')).toBe(50)
    expect(shelf.reserve(shard('b', 2n), 50)).toEqual(['b/1/0'])
  })
})
