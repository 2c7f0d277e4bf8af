import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type PlannedShard,
  planShards,
  type ShardDevice,
  type ShardedCorpus,
  shardBytes,
} from './shard-plan.js'

const corpus: ShardedCorpus = { documents: 1_000, bytes: 10_000, termBytes: 0 }
const device = (deviceId: string, roomBytes: number, searchMs = 1): ShardDevice => ({
  deviceId,
  roomBytes,
  searchMs,
})
const shard = (deviceId: string | null, firstDocument: number, documentCount: number): PlannedShard => ({
  deviceId,
  firstDocument,
  documentCount,
})

describe('a corpus is held', () => {
  test('whole by the quickest device with room', () => {
    const devices = [device('a', 20_000, 3), device('b', 9_999, 1), device('c', 10_000, 2)]
    expect(planShards(corpus, devices, [])).toEqual([shard('c', 0, 1_000)])
  })

  test('by several where no device has room for all, done at the same time', () => {
    expect(planShards(corpus, [device('a', 6_000), device('b', 6_000)], [])).toEqual([
      shard('a', 0, 500),
      shard('b', 500, 500),
    ])
    expect(planShards(corpus, [device('a', 9_000, 1), device('b', 9_000, 3)], [])).toEqual([
      shard('a', 0, 750),
      shard('b', 750, 250),
    ])
    // The quicker one's room ends before.
    expect(planShards(corpus, [device('a', 6_000, 1), device('b', 9_000, 3)], [])).toEqual([
      shard('a', 0, 600),
      shard('b', 600, 400),
    ])
  })

  test('to the last byte of the room', () => {
    // 343 ÷ 1,000 of 10,000 bytes is a little more than 3,430 in floating point.
    expect(planShards(corpus, [device('a', 3_430)], [])).toEqual([shard('a', 0, 343), shard(null, 343, 657)])
  })

  test('by its owner where there is no room', () => {
    expect(planShards(corpus, [], [])).toEqual([shard(null, 0, 1_000)])
    expect(planShards(corpus, [device('a', 2_500)], [])).toEqual([shard('a', 0, 250), shard(null, 250, 750)])
  })

  test('by nobody where it is empty', () => {
    expect(planShards({ documents: 0, bytes: 0, termBytes: 0 }, [device('a', 1)], [])).toEqual([])
  })
})

test('half of the documents take more than half of the room, since they share words', () => {
  const wordy = { ...corpus, termBytes: 4_000 }
  expect(shardBytes(wordy, 500)).toBe(Math.ceil(3_000 + 4_000 * Math.SQRT1_2))
  expect(planShards(wordy, [device('a', 5_500), device('b', 5_500)], []).at(-1)?.deviceId).toBeNull()
  expect(planShards(wordy, [device('a', 6_000), device('b', 6_000)], []).at(-1)?.deviceId).toBe('b')
})

describe('when devices change', () => {
  test('ranges of a lost device go to the others, which keep theirs', () => {
    const cut = [shard('a', 0, 500), shard('b', 500, 500)]
    expect(planShards(corpus, [device('a', 6_000)], cut)).toEqual([
      shard('a', 0, 500),
      shard('a', 500, 100),
      shard(null, 600, 400),
    ])
    expect(planShards(corpus, [device('a', 6_000), device('c', 6_000)], cut)).toEqual([
      shard('a', 0, 500),
      shard('c', 500, 500),
    ])
  })

  test('what the owner kept goes to a device that joins', () => {
    const before = planShards(corpus, [device('a', 6_000)], [])
    expect(before).toEqual([shard('a', 0, 600), shard(null, 600, 400)])
    expect(planShards(corpus, [device('a', 6_000), device('b', 6_000)], before)).toEqual([
      shard('a', 0, 600),
      shard('b', 600, 400),
    ])
  })

  test('a device that joins takes the corpus only where that is worth the move', () => {
    const before = [shard('a', 0, 1_000)]
    const devices = (searchMs: number) => [device('a', 10_000, 1), device('b', 10_000, searchMs)]
    expect(planShards(corpus, devices(0.8), before)).toEqual(before)
    expect(planShards(corpus, devices(0.5), before)).toEqual([shard('b', 0, 1_000)])
  })

  test('a device whose room shrank gives up what it cannot hold', () => {
    expect(planShards(corpus, [device('a', 4_000), device('b', 6_000)], [shard('a', 0, 1_000)])).toEqual([
      shard('a', 0, 400),
      shard('b', 400, 600),
    ])
  })
})

const devicesArbitrary = fc.uniqueArray(
  fc.record({
    deviceId: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    roomBytes: fc.integer({ min: 0, max: 12_000 }),
    searchMs: fc.double({ min: 0.001, max: 100, noNaN: true }),
  }),
  { selector: ({ deviceId }) => deviceId },
)

const corpusArbitrary = fc
  .record({
    documents: fc.integer({ min: 0, max: 3_000 }),
    bytes: fc.integer({ min: 0, max: 30_000 }),
    termShare: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .map(({ documents, bytes, termShare }) => ({ documents, bytes, termBytes: bytes * termShare }))

test('whatever comes and goes: all documents once, within every room, and planning again moves nothing', () => {
  fc.assert(
    fc.property(
      corpusArbitrary,
      fc.array(devicesArbitrary, { minLength: 1, maxLength: 6 }),
      (anyCorpus, epochs) => {
        let plan: readonly PlannedShard[] = []
        for (const devices of epochs) {
          plan = planShards(anyCorpus, devices, plan)
          let next = 0
          const held = new Map<string, number>()
          for (const { deviceId, firstDocument, documentCount } of plan) {
            expect(firstDocument).toBe(next)
            expect(documentCount).toBeGreaterThan(0)
            next += documentCount
            if (deviceId === null) continue
            held.set(deviceId, (held.get(deviceId) ?? 0) + shardBytes(anyCorpus, documentCount))
          }
          expect(next).toBe(anyCorpus.documents)
          for (const [deviceId, bytes] of held) {
            const room = devices.find((one) => one.deviceId === deviceId)?.roomBytes ?? -1
            expect(bytes).toBeLessThanOrEqual(room)
          }
          expect(planShards(anyCorpus, devices, plan)).toEqual(plan)
        }
      },
    ),
  )
})

test('with room for all somewhere, the owner searches nothing', () => {
  fc.assert(
    fc.property(devicesArbitrary, fc.array(devicesArbitrary, { maxLength: 3 }), (devices, before) => {
      let plan: readonly PlannedShard[] = []
      for (const earlier of before) plan = planShards(corpus, earlier, plan)
      plan = planShards(corpus, devices, plan)
      const room = devices.reduce((sum, one) => sum + Math.floor(one.roomBytes / 10), 0)
      const left = plan.filter(({ deviceId }) => deviceId === null)
      expect(left.reduce((sum, one) => sum + one.documentCount, 0)).toBe(Math.max(0, 1_000 - room))
    }),
  )
})
