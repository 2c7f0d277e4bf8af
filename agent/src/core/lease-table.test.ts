/** Leases against a plain model, over thousands of random histories. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { leaseCountersFrom, placeOfLease } from '../lease-ranges.js'
import { type LeaseReference, LeaseTable } from './lease-table.js'

const TTL_MS = 1_000
const ISSUER = { deviceId: 'fpga-0', incarnation: 7n, ttlMs: TTL_MS }

function reference(counter: bigint, over: Partial<LeaseReference> = {}): LeaseReference {
  return { deviceId: ISSUER.deviceId, incarnation: ISSUER.incarnation, counter, ...over }
}

const operation = fc.oneof(
  fc.constant({ type: 'issue' as const }),
  fc.record({ type: fc.constantFrom('renew' as const, 'use', 'end'), pick: fc.nat(9) }),
  fc.record({ type: fc.constant('wait' as const), elapsedMs: fc.nat(700) }),
)

describe('leases', () => {
  it('are alive until they end or their time is up, and never again', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (history) => {
        const table = new LeaseTable(ISSUER)
        const alive = new Map<bigint, { expiresAtMs: number; inUse: boolean }>()
        let issued = 0n
        let nowMs = 0
        for (const item of history) {
          if (item.type === 'issue') {
            issued += 1n
            expect(table.issue(nowMs)).toBe(issued)
            alive.set(issued, { expiresAtMs: nowMs + TTL_MS, inUse: false })
          } else if (item.type === 'wait') {
            nowMs += item.elapsedMs
            const due = [...alive].filter(([, lease]) => !lease.inUse && lease.expiresAtMs <= nowMs)
            expect(table.expired(nowMs)).toEqual(due.map(([counter]) => counter))
            for (const [counter] of due) {
              expect(table.end(counter)).toBe(true)
              alive.delete(counter)
            }
          } else {
            const counter = BigInt(1 + item.pick)
            const lease = alive.get(counter)
            if (item.type === 'end') expect(table.end(counter)).toBe(alive.delete(counter))
            else if (item.type === 'use') table.use(counter)
            else table.renew(counter, nowMs)
            if (lease !== undefined && item.type === 'use') lease.inUse = true
            if (lease !== undefined && item.type === 'renew') lease.expiresAtMs = nowMs + TTL_MS
          }
          expect(table.aliveCount).toBe(alive.size)
          for (let counter = 1n; counter <= issued; counter += 1n) {
            expect(table.verdict(reference(counter))).toBe(alive.has(counter) ? 'alive' : 'ended')
          }
          expect(table.verdict(reference(issued + 1n))).toBe('foreign')
          expect(table.verdict(reference(1n, { incarnation: 6n }))).toBe('older')
          expect(table.verdict(reference(1n, { incarnation: 8n }))).toBe('foreign')
          expect(table.verdict(reference(1n, { deviceId: 'gpu-0' }))).toBe('foreign')
        }
      }),
      { numRuns: 500 },
    )
  })

  it('of two models of one device are told apart by their numbers', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 1_000 }),
        fc.nat({ max: 1_000 }),
        fc.nat({ max: 20 }),
        (one, other, count) => {
          fc.pre(one !== other)
          const [mine, theirs] = [one, other].map(
            (place) => new LeaseTable({ ...ISSUER, countersFrom: leaseCountersFrom(place) }),
          )
          for (let lease = 0; lease <= count; lease += 1) {
            const counter = mine?.issue(0) ?? 0n
            expect(placeOfLease(counter)).toBe(one)
            expect(mine?.verdict(reference(counter))).toBe('alive')
            expect(theirs?.verdict(reference(counter))).toBe('foreign')
          }
        },
      ),
    )
  })
})
