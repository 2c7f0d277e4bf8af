/**
 * Whatever the bus does to events, the directory comes to know exactly what devices hold.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { DeviceRef } from './facts.js'
import { KvDirectory } from './kv-directory.js'
import { type KvChange, KvFollower, type KvSnapshot, RECHECK_MS, SNAPSHOT_TIMEOUT_MS } from './kv-follower.js'
import { blocksOn } from './testing/blocks-on.js'
import { hashesOf } from './testing/named-hashes.js'

const VARIANT = 'f32'
const HASHES = Array.from({ length: 10 }, (_, index) => `hash-${index}`)
const everyone = (): boolean => true

/** A device that holds blocks and tells of them. */
class Owner {
  readonly held = new Set<string>()
  ref: DeviceRef
  sequence = 0

  constructor(readonly deviceId: string) {
    this.ref = { deviceId, incarnation: 'life-1' }
  }

  change(stored: readonly string[], removed: readonly string[]): KvChange {
    for (const hash of removed) this.held.delete(hash)
    for (const hash of stored) this.held.add(hash)
    this.sequence += 1
    return { ...this.ref, sequence: this.sequence, ...hashed(stored, removed), variant: VARIANT, tier: 'hbm' }
  }

  snapshot(): KvSnapshot {
    return { sequence: this.sequence, groups: [{ variant: VARIANT, hashes: hashesOf([...this.held]) }] }
  }

  restart(life: number): void {
    this.held.clear()
    this.sequence = 0
    this.ref = { deviceId: this.deviceId, incarnation: `life-${life}` }
  }
}

function hashed(stored: readonly string[], removed: readonly string[]) {
  return { stored: hashesOf(stored), removed: hashesOf(removed) }
}

function known(directory: KvDirectory, deviceId: string): string[] {
  return HASHES.filter((hash) => blocksOn(directory.match(hashesOf([hash]), VARIANT), deviceId) > 0)
}

interface Turn {
  device: number
  stored: string[]
  removed: string[]
  /** How many turns later it arrives, each time; empty: never. */
  arrivals: readonly number[]
  snapshot: 'answered' | 'late' | 'failed' | 'unanswered'
  event: 'none' | 'restart' | 'bus' | 'missed'
}

const anyTurn: fc.Arbitrary<Turn> = fc.record({
  device: fc.nat(2),
  stored: fc.subarray(HASHES),
  removed: fc.subarray(HASHES),
  arrivals: fc.oneof(
    { weight: 4, arbitrary: fc.constant<number[]>([0]) },
    { weight: 2, arbitrary: fc.array(fc.nat(4), { maxLength: 3 }) },
  ),
  snapshot: fc.constantFrom('answered', 'answered', 'late', 'failed', 'unanswered'),
  event: fc.constantFrom('none', 'none', 'none', 'none', 'restart', 'bus', 'missed'),
})

describe('the follower of KV events', () => {
  test('any order, loss and repetition of events with snapshots ends at what the owners hold', () => {
    fc.assert(
      fc.property(fc.array(anyTurn, { maxLength: 40 }), (turns) => {
        const directory = new KvDirectory()
        const follower = new KvFollower(directory)
        const owners = ['gpu-0', 'fpga-0', 'host-0'].map((deviceId) => new Owner(deviceId))
        let nowMs = 0
        for (const { ref } of owners) follower.begin(ref, nowMs)
        const later: { turn: number; does: () => void }[] = []
        const ownerOf = (ref: DeviceRef): Owner | undefined =>
          owners.find((owner) => owner.ref.incarnation === ref.incarnation && owner.deviceId === ref.deviceId)
        const answer = (ref: DeviceRef): void => {
          const owner = ownerOf(ref)
          follower.snapshot(ref, owner ? owner.snapshot() : null, nowMs)
        }
        turns.forEach((turn, index) => {
          nowMs += 300
          const owner = owners[turn.device] ?? new Owner('nobody')
          if (turn.event === 'restart') {
            owner.restart(index + 2)
            follower.begin(owner.ref, nowMs)
          }
          if (turn.event === 'bus') follower.healAll(nowMs)
          const change = owner.change(turn.stored, turn.removed)
          for (const delay of turn.arrivals) {
            later.push({ turn: index + delay, does: () => follower.change(change, nowMs) })
          }
          if (turn.event === 'missed')
            follower.missed(owner.ref, hashesOf([...owner.held].slice(0, 2)), nowMs)
          for (const ref of follower.due(nowMs, everyone)) {
            if (turn.snapshot === 'answered') answer(ref)
            if (turn.snapshot === 'failed') follower.snapshot(ref, null, nowMs)
            if (turn.snapshot === 'late') {
              const snapshot = ownerOf(ref)?.snapshot() ?? null
              later.push({ turn: index + 3, does: () => follower.snapshot(ref, snapshot, nowMs) })
            }
          }
          for (const { turn: at, does } of later) if (at === index) does()
        })
        // The bus is well again: one more event and one more report of each device arrive, and devices answer.
        nowMs += RECHECK_MS
        for (const owner of owners) {
          follower.change(owner.change([], []), nowMs)
          follower.reported({ ...owner.ref }, nowMs)
        }
        for (let round = 0; round < 20 && follower.healing().length > 0; round += 1) {
          nowMs += SNAPSHOT_TIMEOUT_MS + 6_000
          for (const ref of follower.due(nowMs, everyone)) answer(ref)
        }
        expect(follower.healing()).toEqual([])
        for (const owner of owners) {
          expect(known(directory, owner.deviceId)).toEqual(HASHES.filter((hash) => owner.held.has(hash)))
        }
      }),
      { numRuns: 500 },
    )
  })

  test('events in turn take effect at once; a gap holds up those after it until the snapshot', () => {
    const directory = new KvDirectory()
    const follower = new KvFollower(directory)
    const owner = new Owner('gpu-0')
    follower.begin(owner.ref, 0)
    expect(follower.due(0, everyone)).toEqual([owner.ref])
    follower.snapshot(owner.ref, owner.snapshot(), 1)
    follower.change(owner.change(['hash-0'], []), 2)
    expect(known(directory, 'gpu-0')).toEqual(['hash-0'])
    owner.change(['hash-1'], [])
    const third = owner.change(['hash-2'], ['hash-0'])
    follower.change(third, 3)
    expect(follower.healing()).toEqual(['gpu-0'])
    expect(known(directory, 'gpu-0')).toEqual(['hash-0'])
    expect(follower.due(3, everyone)).toEqual([owner.ref])
    expect(follower.due(4, everyone)).toEqual([])
    follower.snapshot(
      owner.ref,
      {
        ...owner.snapshot(),
        sequence: 2,
        groups: [{ variant: VARIANT, hashes: hashesOf(['hash-0', 'hash-1']) }],
      },
      5,
    )
    expect(known(directory, 'gpu-0')).toEqual(['hash-1', 'hash-2'])
    expect(follower.healing()).toEqual([])
  })

  test('a lost last event is noticed by the next load report, which says how many there were', () => {
    const directory = new KvDirectory()
    const follower = new KvFollower(directory)
    const owner = new Owner('a')
    follower.begin(owner.ref, 0)
    follower.due(0, everyone)
    follower.snapshot(owner.ref, owner.snapshot(), 0)
    follower.change(owner.change(['hash-0'], []), 1)
    follower.reported({ ...owner.ref, kvSequence: 1 }, 2)
    expect(follower.healing()).toEqual([])
    owner.change(['hash-1'], ['hash-0'])
    follower.reported({ ...owner.ref, kvSequence: 2 }, 3)
    expect(follower.due(3, everyone)).toEqual([owner.ref])
    follower.snapshot(owner.ref, owner.snapshot(), 4)
    expect(known(directory, 'a')).toEqual(['hash-1'])
    expect(follower.healing()).toEqual([])
  })

  test('a device that gives no snapshot is asked ever more rarely, one that is out of reach not at all', () => {
    const follower = new KvFollower(new KvDirectory())
    const { ref } = new Owner('gpu-0')
    follower.begin(ref, 0)
    expect(follower.due(0, () => false)).toEqual([])
    const askedAtMs: number[] = []
    for (let nowMs = 0; nowMs < 60_000; nowMs += 50) {
      for (const device of follower.due(nowMs, everyone)) {
        askedAtMs.push(nowMs)
        follower.snapshot(device, null, nowMs)
      }
    }
    const pauses = askedAtMs.slice(1).map((atMs, index) => atMs - (askedAtMs[index] ?? 0))
    expect(pauses.slice(0, 3)).toEqual([250, 500, 1_000])
    expect(pauses.at(-1)).toBe(10_000)
  })

  test('asks a bounded number of devices at once', () => {
    const follower = new KvFollower(new KvDirectory())
    for (let device = 0; device < 100; device += 1) follower.begin(new Owner(`gpu-${device}`).ref, 0)
    const asked = follower.due(0, everyone)
    expect(asked).toHaveLength(16)
    for (const ref of asked) follower.snapshot(ref, { sequence: 0, groups: [] }, 1)
    expect(follower.due(1, everyone)).toHaveLength(16)
  })

  test('blocks that were missed are dropped, and the device is asked what it has, at most every 5 s', () => {
    const directory = new KvDirectory()
    const follower = new KvFollower(directory)
    const owner = new Owner('gpu-0')
    follower.begin(owner.ref, 0)
    follower.due(0, everyone)
    owner.change(['hash-0', 'hash-1'], [])
    follower.snapshot(owner.ref, owner.snapshot(), 1)
    follower.missed(owner.ref, hashesOf(['hash-1']), 40_000)
    expect(known(directory, 'gpu-0')).toEqual(['hash-0'])
    expect(follower.due(40_000, everyone)).toEqual([owner.ref])
    follower.snapshot(owner.ref, owner.snapshot(), 40_001)
    expect(known(directory, 'gpu-0')).toEqual(['hash-0', 'hash-1'])
    follower.missed(owner.ref, hashesOf(['hash-1']), 42_000)
    expect(follower.due(42_000, everyone)).toEqual([])
    follower.missed({ ...owner.ref, incarnation: 'an earlier life' }, hashesOf(['hash-0']), 42_000)
    expect(known(directory, 'gpu-0')).toEqual(['hash-0'])
    // It keeps the block, and so will not tell of it again by itself.
    follower.reported(owner.ref, 44_999)
    expect(follower.due(44_999, everyone)).toEqual([])
    follower.reported(owner.ref, 45_000)
    expect(follower.due(45_000, everyone)).toEqual([owner.ref])
    follower.snapshot(owner.ref, owner.snapshot(), 45_001)
    expect(known(directory, 'gpu-0')).toEqual(['hash-0', 'hash-1'])
    follower.reported(owner.ref, 200_000)
    expect(follower.due(200_000, everyone)).toEqual([])
  })
})
