import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { LeastRecentlyUsed } from './eviction-policy.js'

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
