import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { EventQueue } from './event-queue.js'
import { HostMemory } from './host-memory.js'
import { SharedLinks } from './shared-links.js'

const BLOCK_BYTES = 100

/** Room for so many blocks; the near memory carries 100 bytes a millisecond, the far one 10. */
function memoryOf(nearBlocks: number, farBlocks: number) {
  const queue = new EventQueue()
  const links = new SharedLinks(queue)
  const dropped: string[] = []
  const tiers = [
    { name: 'dram', bytes: nearBlocks * BLOCK_BYTES, bytesPerSecond: 100_000 },
    { name: 'nvme', bytes: farBlocks * BLOCK_BYTES, bytesPerSecond: 10_000 },
  ]
  const memory = new HostMemory('host', tiers, BLOCK_BYTES, links, (names) => dropped.push(...names))
  const keptMs: number[] = []
  const bring = (names: readonly string[]) => {
    memory.claim(names.length, () => {
      memory.keep(names)
      keptMs.push(queue.nowMs)
    })
  }
  const play = (untilMs = Number.POSITIVE_INFINITY) => {
    while (queue.runNext(untilMs));
  }
  return { queue, links, memory, dropped, keptMs, bring, play }
}

const figures = (memory: HostMemory) =>
  memory.loads().map(({ lookups, hits, inBytes, outBytes, cachedBytes }) => {
    return { lookups, hits, in: inBytes, out: outBytes, cached: cachedBytes }
  })

describe('a block that goes on to a farther memory', () => {
  it('takes the time that the slower of the two needs, and only then leaves its room', () => {
    const { memory, bring, keptMs, play } = memoryOf(2, 4)
    bring(['a', 'b'])
    bring(['c'])
    play()
    expect(keptMs).toEqual([0, expect.closeTo(10)])
    expect(figures(memory)).toMatchObject([
      { in: 300, out: 100, cached: 200 },
      { in: 100, out: 0, cached: 100 },
    ])
  })

  it('shares the bandwidth with other moves', () => {
    const { bring, keptMs, play } = memoryOf(2, 4)
    bring(['a', 'b'])
    bring(['c'])
    bring(['d'])
    play()
    expect(keptMs).toEqual([0, expect.closeTo(20), expect.closeTo(20)])
  })

  it('slows reads of the memory down that it comes from and goes to', () => {
    const { memory, links, queue, bring, play } = memoryOf(2, 4)
    bring(['a', 'b'])
    bring(['c'])
    play()
    const { through } = memory.lend(['a'])
    let readMs = 0
    const beganMs = queue.nowMs
    links.close(
      links.open(through, () => {
        readMs = queue.nowMs - beganMs
      }),
      BLOCK_BYTES,
    )
    bring(['d'])
    play()
    // 10 ms alone.
    expect(readMs).toBeCloseTo(20)
  })

  it('is read where it still is, and is lent on from where it comes to', () => {
    const { memory, queue, bring, play } = memoryOf(1, 1)
    bring(['a'])
    bring(['b'])
    const moving = memory.lend(['a'])
    expect(moving.through.map(({ name }) => name)).toEqual(['host dram'])
    play()
    expect(memory.lend(['a']).through.map(({ name }) => name)).toEqual(['host nvme'])
    // It is lent: nothing can take its place, and the next is dropped.
    expect(memory.roomFor(2)).toBe(1)
    bring(['c'])
    play()
    expect(queue.nowMs).toBeCloseTo(10)
    expect(memory.names).toEqual(['c', 'a'])
  })
})

it('counts lookups of each memory: of what none nearer has', () => {
  const { memory, bring, play } = memoryOf(2, 4)
  bring(['a', 'b'])
  bring(['c'])
  play()
  memory.giveBack(memory.lend(['b', 'a', 'x', 'c']).loan)
  expect(figures(memory)).toMatchObject([
    { lookups: 4, hits: 1 },
    { lookups: 3, hits: 1 },
  ])
})

it('never holds more than it has room for, never loses what is lent, and tells what it drops', () => {
  const action = fc.oneof(
    fc.record({ type: fc.constant('bring' as const), count: fc.integer({ min: 1, max: 4 }) }),
    fc.record({ type: fc.constant('lend' as const), name: fc.nat({ max: 30 }) }),
    fc.record({ type: fc.constant('giveBack' as const), pick: fc.nat() }),
    fc.record({ type: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 40 }) }),
  )
  fc.assert(
    fc.property(
      fc.array(action, { maxLength: 60 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 0, max: 4 }),
      (actions, near, far) => {
        const { queue, memory, dropped, bring, play } = memoryOf(near, far)
        const brought: string[] = []
        const loans: { loan: number; name: string }[] = []
        for (const wish of actions) {
          if (wish.type === 'bring') {
            const count = memory.roomFor(wish.count)
            const names = Array.from({ length: count }, (_, index) => String(brought.length + index))
            brought.push(...names)
            if (count > 0) bring(names)
          } else if (wish.type === 'lend') {
            const { loan, count } = memory.lend([String(wish.name)])
            if (count > 0) loans.push({ loan, name: String(wish.name) })
          } else if (wish.type === 'giveBack') {
            const [given] = loans.splice(wish.pick % Math.max(1, loans.length), 1)
            if (given) memory.giveBack(given.loan)
          } else {
            queue.at(queue.nowMs + wish.ms, () => {})
            play(queue.nowMs + wish.ms)
          }
          const [dram, nvme] = memory.loads()
          expect(dram?.cachedBytes).toBeLessThanOrEqual(near * BLOCK_BYTES)
          expect(nvme?.cachedBytes).toBeLessThanOrEqual(far * BLOCK_BYTES)
          for (const { name } of loans) expect(memory.has(name)).toBe(true)
        }
        play()
        expect([...memory.names, ...dropped].toSorted()).toEqual(brought.toSorted())
      },
    ),
  )
})
