import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { LeastRecentlyUsed } from './eviction-policy.js'
import { LeastRecentBlocks } from './least-recent-blocks.js'

const hash = fc.integer({ min: 0, max: 7 }).map(String)
const operation = fc.record({ what: fc.constantFrom('touch', 'forget', 'victim', 'evict'), hash })

describe('least recently used', () => {
  it('names the oldest use of a plain list, whatever happens between', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
        const policy = new LeastRecentlyUsed()
        let list: string[] = []
        for (const { what, hash } of operations) {
          const gone = what === 'evict' ? list[0] : what === 'victim' ? undefined : hash
          list = list.filter((other) => other !== gone)
          if (what === 'touch') {
            list.push(hash)
            policy.touch(hash)
          } else if (what === 'victim') expect(policy.victim()).toBe(list[0])
          else policy.forget((what === 'evict' ? policy.victim() : hash) ?? '')
          expect(policy.size).toBe(list.length)
          expect([...policy.order()]).toEqual(list)
        }
        expect(policy.victim()).toBe(list[0])
      }),
    )
  })

  it('does not walk over what has gone to find the next: all of many go in a moment', () => {
    const policy = new LeastRecentlyUsed()
    const blocks = 200_000
    for (let block = 0; block < blocks; block += 1) policy.touch(String(block))
    let gone = 0
    // Would take half a minute, were every victim looked for from the front.
    for (let next = policy.victim(); next !== undefined; next = policy.victim()) {
      policy.forget(next)
      gone += 1
    }
    expect(gone).toBe(blocks)
  })
})

describe('least recently used of the blocks of a pool', () => {
  const CAPACITY = 8
  const block = fc.nat(CAPACITY - 1)
  const operation = fc.record({ what: fc.constantFrom('touch', 'forget', 'evict', 'move'), block, to: block })

  it('is the order of a plain list, in which what moves keeps its place', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
        const policy = new LeastRecentBlocks(CAPACITY)
        let list: number[] = []
        for (const { what, block, to } of operations) {
          if (what === 'move') {
            // Only a free block is moved to.
            if (list.includes(to)) continue
            list = list.map((other) => (other === block ? to : other))
            policy.moved(block, to)
          } else {
            const gone = what === 'evict' ? list[0] : block
            list = list.filter((other) => other !== gone)
            if (what === 'touch') {
              list.push(block)
              policy.touch(block)
            } else {
              const victim = what === 'evict' ? policy.victim() : block
              if (victim !== undefined) policy.forget(victim)
            }
          }
          expect(policy.size).toBe(list.length)
          expect(policy.victim()).toBe(list[0])
          expect([...policy.order()]).toEqual(list)
        }
      }),
    )
  })

  it('may be walked through while what it names goes', () => {
    const policy = new LeastRecentBlocks(CAPACITY)
    for (let block = 0; block < CAPACITY; block += 1) policy.touch(block)
    const seen: number[] = []
    for (const block of policy.order()) {
      seen.push(block)
      policy.forget(block)
    }
    expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    expect(policy.size).toBe(0)
  })
})
