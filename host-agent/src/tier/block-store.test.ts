import type { KvShape } from '@kvasir/agent/block-holder'
import { LeastRecentlyUsed } from '@kvasir/agent/core/eviction-policy'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { BlockStore, type StoredBlock } from './block-store.js'

const variant = (count: number): KvShape['variant'] => ({
  numerics: 'PROFILE_EXACT',
  dtype: 'PRECISION_F32',
  layers: { first: 0, count },
})
/** Blocks of 8 bytes, and of 12. */
const SHAPES: readonly KvShape[] = [2, 3].map((layers) => ({
  modelDigest: `model of ${layers}`,
  variant: variant(layers),
  layers,
  blockLayerBytes: 4,
  boundsBytes: 0,
}))
const CAPACITY_BYTES = 40

const action = fc.oneof(
  fc.record({
    type: fc.constantFrom('allocate' as const, 'lend' as const),
    shape: fc.nat({ max: 1 }),
    hash: fc.nat({ max: 9 }),
  }),
  fc.record({
    type: fc.constantFrom('commit' as const, 'abandon' as const, 'giveBack' as const),
    pick: fc.nat(),
  }),
  fc.record({ type: fc.constant('evictAll' as const) }),
)

it('never exceeds its capacity, tells what it holds, and never loses what is lent', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 80 }), (actions) => {
      const held = new Map<string, StoredBlock>()
      const name = ({ shape, hash }: StoredBlock) => `${shape.layers} ${hash}`
      const store = new BlockStore(CAPACITY_BYTES, new LeastRecentlyUsed(), {
        stored(block) {
          expect(held.has(name(block))).toBe(false)
          held.set(name(block), block)
        },
        removed(block) {
          expect(held.delete(name(block))).toBe(true)
        },
      })
      const filling: StoredBlock[] = []
      const loans: StoredBlock[][] = []
      for (const wish of actions) {
        switch (wish.type) {
          case 'allocate': {
            const shape = SHAPES[wish.shape] as KvShape
            const block = store.allocate(shape, `hash ${wish.hash}`)
            if (block === undefined) break
            block.data.fill(wish.hash)
            filling.push(block)
            break
          }
          case 'lend': {
            const { modelDigest, variant } = SHAPES[wish.shape] as KvShape
            const hashes = [wish.hash, wish.hash + 1].map((hash) => `hash ${hash}`)
            const run = store.lend(modelDigest, variant, hashes)
            const expected = hashes.map((hash) => held.has(`${wish.shape + 2} ${hash}`))
            expect(run.length).toBe(expected.indexOf(false) < 0 ? 2 : expected.indexOf(false))
            if (run.length > 0) loans.push(run)
            break
          }
          case 'commit':
          case 'abandon': {
            const [block] = filling.splice(wish.pick % Math.max(1, filling.length), 1)
            if (block !== undefined) store[wish.type](block)
            break
          }
          case 'giveBack': {
            const [run] = loans.splice(wish.pick % Math.max(1, loans.length), 1)
            if (run !== undefined) store.giveBack(run)
            break
          }
          case 'evictAll':
            store.evictAll()
            break
        }
        expect(store.usedBytes).toBeLessThanOrEqual(CAPACITY_BYTES)
        const all = [...held.values(), ...filling]
        expect(store.usedBytes).toBe(all.reduce((sum, { data }) => sum + data.byteLength, 0))
        for (const block of loans.flat()) expect(held.get(name(block))?.data).toBe(block.data)
        for (const { hash, data } of all) expect(data.every((byte) => `hash ${byte}` === hash)).toBe(true)
      }
      for (const run of loans) store.giveBack(run)
      for (const block of filling) store.abandon(block)
      store.evictAll()
      expect([store.usedBytes, store.evictableBytes, held.size]).toEqual([0, 0, 0])
    }),
  )
})

it('evicts what was used longest ago, the tail of a run before its head', () => {
  const gone: string[] = []
  const store = new BlockStore(24, new LeastRecentlyUsed(), {
    stored() {},
    removed: ({ hash }) => gone.push(hash),
  })
  const shape = SHAPES[0] as KvShape
  for (const hash of ['a', 'b', 'c']) store.commit(store.allocate(shape, hash) as StoredBlock)
  store.giveBack(store.lend(shape.modelDigest, shape.variant, ['a', 'b']))
  for (const hash of ['d', 'e']) store.commit(store.allocate(shape, hash) as StoredBlock)
  expect(gone).toEqual(['c', 'b'])
})
