import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { KvDirectory } from './kv-directory.js'
import { blocksOn } from './testing/blocks-on.js'
import { hashesOf } from './testing/named-hashes.js'

const DEVICES = ['gpu-0', 'fpga-0', 'fpga-1', 'host-0']
const VARIANTS = ['f32', 'int8']
const HASHES = Array.from({ length: 12 }, (_, index) => `hash-${index}`)

type Change =
  | { does: 'store' | 'remove' | 'replace'; device: string; variant: string; hashes: string[]; tier: string }
  | { does: 'drop'; device: string }

const anyHashes = fc.subarray(HASHES)
const anyChange: fc.Arbitrary<Change> = fc.oneof(
  fc.record({
    does: fc.constantFrom('store' as const, 'store' as const, 'remove' as const, 'replace' as const),
    device: fc.constantFrom(...DEVICES),
    variant: fc.constantFrom(...VARIANTS),
    hashes: anyHashes,
    tier: fc.constantFrom('hbm', 'ddr', ''),
  }),
  fc.record({ does: fc.constant('drop' as const), device: fc.constantFrom(...DEVICES) }),
)

/** What each device holds, kept in the plainest way. */
class Owners {
  readonly held = new Map<string, Set<string>>()

  of(device: string, variant: string): Set<string> {
    const key = `${device}/${variant}`
    const set = this.held.get(key) ?? new Set()
    this.held.set(key, set)
    return set
  }

  apply(change: Change): void {
    for (const variant of VARIANTS) {
      const set = this.of(change.device, variant)
      if (change.does === 'drop' || change.does === 'replace') set.clear()
      if (change.does === 'remove') for (const hash of change.hashes) set.delete(hash)
    }
    if (change.does === 'store' || change.does === 'replace') {
      const set = this.of(change.device, change.variant)
      for (const hash of change.hashes) set.add(hash)
    }
  }

  run(device: string, variant: string, prompt: readonly string[]): number {
    const missing = prompt.findIndex((hash) => !this.of(device, variant).has(hash))
    return missing < 0 ? prompt.length : missing
  }
}

function groupOf({ variant, hashes }: { readonly variant: string; readonly hashes: readonly string[] }) {
  return { variant, hashes: hashesOf(hashes) }
}

function apply(directory: KvDirectory, change: Change): void {
  if (change.does === 'drop') {
    directory.dropDevice(change.device)
  } else if (change.does === 'store') {
    directory.store(change.device, groupOf(change), change.tier)
  } else if (change.does === 'remove') {
    directory.remove(change.device, hashesOf(change.hashes))
  } else {
    directory.replace(change.device, [groupOf(change)])
  }
}

describe('the directory of blocks', () => {
  test('finds the longest leading run on every device, whatever was stored, removed and listed before', () => {
    fc.assert(
      fc.property(fc.array(anyChange, { maxLength: 40 }), fc.shuffledSubarray(HASHES), (changes, prompt) => {
        const directory = new KvDirectory()
        const owners = new Owners()
        for (const change of changes) {
          apply(directory, change)
          owners.apply(change)
        }
        for (const variant of VARIANTS) {
          const match = directory.match(hashesOf(prompt), variant)
          const runs = DEVICES.map((device) => owners.run(device, variant, prompt))
          expect(DEVICES.map((device) => blocksOn(match, device))).toEqual(runs)
          const longest = match.longest(1, 2).map(({ blocks }) => blocks)
          const expected = runs.filter((run) => run > 1).toSorted((a, b) => b - a)
          expect(longest).toEqual(expected.slice(0, 2))
        }
        for (const device of DEVICES) {
          const held = VARIANTS.reduce((sum, variant) => sum + owners.of(device, variant).size, 0)
          expect(directory.blocksOn(device)).toBe(held)
        }
      }),
    )
  })

  test('stays within its bound, and counts what it gave up', () => {
    fc.assert(
      fc.property(fc.array(anyChange, { maxLength: 60 }), (changes) => {
        const directory = new KvDirectory(4)
        const owners = new Owners()
        let known = 0
        for (const change of changes) {
          apply(directory, change)
          owners.apply(change)
          known = DEVICES.reduce((sum, device) => sum + directory.blocksOn(device), 0)
          expect(directory.blocks).toBeLessThanOrEqual(4)
          expect(known).toBeLessThanOrEqual(16)
          // What it knows is so: a bound makes it forget, never make up.
          for (const device of DEVICES) {
            for (const variant of VARIANTS) {
              for (const hash of HASHES) {
                const isKnown = blocksOn(directory.match(hashesOf([hash]), variant), device) > 0
                if (isKnown) expect(owners.of(device, variant)).toContain(hash)
              }
            }
          }
        }
        const held = [...owners.held.values()].reduce((sum, set) => sum + set.size, 0)
        if (directory.droppedCopies === 0) expect(known).toBe(held)
      }),
    )
  })

  test('forgets what was used least recently first', () => {
    const directory = new KvDirectory(3)
    directory.store('gpu-0', groupOf({ variant: 'f32', hashes: ['a', 'b', 'c'] }), 'hbm')
    directory.match(hashesOf(['a']), 'f32')
    directory.store('gpu-0', groupOf({ variant: 'f32', hashes: ['d'] }), 'hbm')
    expect(
      ['a', 'b', 'c', 'd'].map((hash) => blocksOn(directory.match(hashesOf([hash]), 'f32'), 'gpu-0')),
    ).toEqual([1, 0, 1, 1])
    expect(directory.droppedCopies).toBe(1)
  })

  test('knows the tier that was told last, and keeps it over a list that tells none', () => {
    const directory = new KvDirectory()
    directory.store('fpga-0', groupOf({ variant: 'f32', hashes: ['a', 'b'] }), 'hbm')
    directory.store('fpga-0', groupOf({ variant: 'f32', hashes: ['b'] }), 'ddr')
    directory.replace('fpga-0', [groupOf({ variant: 'f32', hashes: ['a', 'b', 'c'] })])
    expect(['a', 'b', 'c', 'd'].map((hash) => directory.tierOf('fpga-0', hashesOf([hash])))).toEqual([
      'hbm',
      'ddr',
      '',
      '',
    ])
    expect(directory.blocksOn('fpga-0')).toBe(3)
  })

  test('a prefix that a thousand devices hold is followed as quickly as one that a single device holds', () => {
    const directory = new KvDirectory()
    const prompt = Array.from({ length: 64 }, (_, index) => `system-${index}`)
    for (let device = 0; device < 1_000; device += 1) {
      directory.store(`gpu-${device}`, groupOf({ variant: 'f32', hashes: prompt }), 'hbm')
    }
    directory.store('gpu-7', groupOf({ variant: 'f32', hashes: ['one more'] }), 'hbm')
    const match = directory.match(hashesOf([...prompt, 'one more']), 'f32')
    expect(blocksOn(match, 'gpu-999')).toBe(64)
    expect(match.longest(0, 2)).toEqual([
      { deviceId: 'gpu-7', blocks: 65 },
      { deviceId: 'gpu-0', blocks: 64 },
    ])
    expect(directory.blocks).toBe(65)
  })
})
