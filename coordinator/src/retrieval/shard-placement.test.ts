import { describe, expect, test } from 'vitest'
import {
  AVOID_MS,
  IDLE_MS,
  type PlacedCorpus,
  type PlacementDevice,
  ShardPlacement,
} from './shard-placement.js'

const corpus = (key: string, documents: number, version = 1n): PlacedCorpus => ({
  key,
  version,
  documents,
  bytes: documents * 10,
  termBytes: 0,
})
const device = (deviceId: string, documentsMax: number): PlacementDevice => ({
  deviceId,
  life: `${deviceId}/1`,
  shardBytesMax: documentsMax * 10,
  searchMs: 1,
})
const shares = (placement: ReturnType<ShardPlacement['place']>) =>
  placement.shards.map(({ deviceId, documentCount }) => `${deviceId} ${documentCount}`)

describe('the room of a device', () => {
  test('is shared by all corpora', () => {
    const placement = new ShardPlacement()
    expect(shares(placement.place(corpus('a', 60), [device('x', 100)], 0))).toEqual(['x 60'])
    expect(shares(placement.place(corpus('b', 60), [device('x', 100)], 0))).toEqual(['x 40', 'null 20'])
    placement.remove('a')
    // What is there stays as it is.
    expect(shares(placement.place(corpus('b', 60), [device('x', 100)], 0))).toEqual(['x 40', 'x 20'])
  })

  test('goes from corpora that nobody searched for a while to one that needs it, the longest idle first', () => {
    const placement = new ShardPlacement()
    const devices = [device('x', 100)]
    placement.place(corpus('old', 40), devices, 0)
    placement.place(corpus('older', 40), devices, 10)
    placement.place(corpus('old', 40), devices, 20)
    const early = placement.place(corpus('new', 60), devices, IDLE_MS)
    expect({ shares: shares(early), gaveWay: early.gaveWay }).toEqual({
      shares: ['x 20', 'null 40'],
      gaveWay: [],
    })
    const late = placement.place(corpus('new', 60), devices, IDLE_MS + 10)
    expect({ shares: shares(late), gaveWay: late.gaveWay }).toEqual({
      shares: ['x 20', 'x 40'],
      gaveWay: ['older'],
    })
    expect(placement.shards('older')).toEqual([])
    expect(placement.shards('old')).toHaveLength(1)
  })

  test('is not taken from corpora that are elsewhere', () => {
    const placement = new ShardPlacement()
    placement.place(corpus('a', 40), [device('y', 40)], 0)
    const { gaveWay } = placement.place(corpus('b', 60), [device('x', 30)], IDLE_MS * 2)
    expect(gaveWay).toEqual([])
  })
})

test('a new version is planned anew', () => {
  const placement = new ShardPlacement()
  const devices = [device('x', 100), device('y', 100)]
  placement.place(corpus('a', 60), devices, 0)
  expect(placement.version('a')).toBe(1n)
  expect(shares(placement.place(corpus('a', 150, 2n), devices, 0))).toEqual(['x 75', 'y 75'])
  expect(placement.version('a')).toBe(2n)
})

test('a device that refuses gets less of this corpus, for a while', () => {
  const placement = new ShardPlacement()
  const devices = [device('x', 100)]
  placement.place(corpus('a', 100), devices, 0)
  placement.refused('a', { deviceId: 'x', life: 'x/1' }, 100, 0)
  expect(shares(placement.place(corpus('a', 100), devices, 1))).toEqual(['x 80', 'null 20'])
  expect(shares(placement.place(corpus('a', 100), devices, 100_000))).toEqual(['x 80', 'x 20'])
})

test('a device that failed is passed over for a while; its next life is not', () => {
  const placement = new ShardPlacement()
  const [x, y] = [device('x', 100), device('y', 100)]
  placement.failed('x/1', 0)
  expect(shares(placement.place(corpus('a', 50), [x, y], 1))).toEqual(['y 50'])
  expect(shares(placement.place(corpus('b', 50), [{ ...x, life: 'x/2' }], 1))).toEqual(['x 50'])
  expect(shares(placement.place(corpus('c', 50), [x], AVOID_MS))).toEqual(['x 50'])
})
