import type { KvVariant } from '@kvasir/proto/kvasir/capability/v1/capability'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { type KvChange, KvIndex } from './kv-index.js'

const variants: readonly KvVariant[] = [2, 3].map((count) => ({
  numerics: 'PROFILE_EXACT',
  dtype: 'PRECISION_F32',
  layers: { first: 0, count },
}))

const nextTurn = () => new Promise((resolve) => setImmediate(resolve))

it('gives with its events exactly what its snapshots say', async () => {
  const hashes = fc.uniqueArray(fc.nat({ max: 12 }).map(String), { maxLength: 6 })
  const change = fc.record({
    variant: fc.nat({ max: 1 }),
    stored: hashes,
    removed: hashes,
    turn: fc.boolean(),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(change, { maxLength: 20 }), async (changes) => {
      const events: KvChange[] = []
      const index = new KvIndex((event) => events.push(event))
      for (const { variant, stored, removed, turn } of changes) {
        index.changed(variants[variant] as KvVariant, stored, removed)
        if (turn) await nextTurn()
      }
      const { sequence, parts } = index.snapshot()
      const told = new Map(variants.map((variant) => [variant, new Set<string>()]))
      for (const [place, event] of events.entries()) {
        expect(event.sequence).toBe(BigInt(place + 1))
        const held = told.get(event.variant) ?? new Set()
        for (const hash of event.stored) expect(held.size < held.add(hash).size).toBe(true)
        for (const hash of event.removed) expect(held.delete(hash)).toBe(true)
      }
      expect(sequence).toBe(BigInt(events.length))
      for (const variant of variants) {
        const part = parts.find((one) => one.variant === variant)
        expect(new Set(part?.hashes)).toEqual(told.get(variant))
      }
    }),
  )
})

it('sends no event of more hashes than a message on NATS should have', async () => {
  const events: KvChange[] = []
  const index = new KvIndex((event) => events.push(event))
  const stored = Array.from({ length: 9_000 }, (_, hash) => String(hash))
  index.changed(variants[0] as KvVariant, stored, [])
  await nextTurn()
  expect(events.map((event) => event.stored.length)).toEqual([4_096, 4_096, 808])
  index.changed(variants[0] as KvVariant, [], ['5'])
  index.changed(variants[0] as KvVariant, ['5'], [])
  await nextTurn()
  expect(events).toHaveLength(3)
})
