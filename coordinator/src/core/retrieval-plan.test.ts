import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  planRetrieval,
  type RetrievalPlanInput,
  type RetrievalShard,
  retrievalWork,
} from './retrieval-plan.js'
import { StageCosts } from './stage-costs.js'
import { testDevice } from './testing/devices.js'

const owner = testDevice({ deviceId: 'host-0', bytesPerSecond: 10e9, opsPerSecond: 10e9 })
const fpgas = [0, 1].map((index) =>
  testDevice({ deviceId: `fpga-${index}`, bytesPerSecond: 460e9, opsPerSecond: 500e9 }),
)
const held = (devices: readonly ReturnType<typeof testDevice>[]) =>
  devices.map((device) => ({ device, loadBytes: 0 }))
const shard = (number: number, candidates: RetrievalShard['candidates']): RetrievalShard => ({
  shard: number,
  documents: 1_000_000,
  postingsBytes: 80_000_000,
  candidates,
})
const input = (shards: readonly RetrievalShard[]): RetrievalPlanInput => ({
  queryBytes: 60,
  terms: 8,
  k: 4,
  owner,
  shards,
  apply: null,
})

describe('a retrieval', () => {
  test('is spread over the devices that hold its shards', () => {
    const plan = planRetrieval(
      input([shard(0, held([...fpgas, owner])), shard(1, held([...fpgas, owner]))]),
      new StageCosts(),
    )
    expect([...plan.shardDevices.values()].sort()).toEqual(['fpga-0', 'fpga-1'])
    expect(plan.stages.map(({ stage }) => stage)).toEqual(['prepare', 'relevancy', 'retrieval'])
    expect(plan.stages[1]).toMatchObject({
      what: 'BM25 over 2 shards',
      alternative: { devices: expect.arrayContaining(['fpga-0']) },
    })
    expect(plan.stages[2]?.transferBytes).toBe(0)
    expect(plan.stages[0]?.what).toBe("the query's words and their weights")
  })

  test('stays with the owner when bringing the shard takes longer than searching it there', () => {
    const [fpga] = fpgas
    if (!fpga) throw new Error('There is an FPGA.')
    const candidates = [{ device: fpga, loadBytes: 500_000_000 }, ...held([owner])]
    const plan = planRetrieval(input([shard(7, candidates)]), new StageCosts())
    expect(plan.shardDevices.get(7)).toBe('host-0')
    expect(plan.stages[1]?.alternative?.devices).toEqual(['fpga-0'])
  })

  test('hands the documents to the device that prefills', () => {
    const [fpga] = fpgas
    if (!fpga) throw new Error('There is an FPGA.')
    const gpu = testDevice({ deviceId: 'gpu-0' })
    const apply = {
      what: 'prefill with 4 documents',
      options: [{ devices: ['gpu-0'], computeMs: 20, device: gpu }],
      documentsBytes: 4_000,
    }
    const plan = planRetrieval({ ...input([shard(0, held([fpga]))]), apply }, new StageCosts())
    expect(plan.stages[3]).toMatchObject({ stage: 'apply', devices: ['gpu-0'], transferBytes: 4_000 + 48 })
  })

  test('follows what was measured', () => {
    const costs = new StageCosts()
    const both = input([shard(0, held([...fpgas]))])
    expect(planRetrieval(both, costs).shardDevices.get(0)).toBe('fpga-0')
    const [slow] = fpgas
    if (!slow) throw new Error('There is an FPGA.')
    costs.observe(slow, 'bm25-score', retrievalWork(shard(0, [])).relevancy, 900)
    expect(planRetrieval(both, costs).shardDevices.get(0)).toBe('fpga-1')
    costs.forget('fpga-0')
    expect(planRetrieval(both, costs).shardDevices.get(0)).toBe('fpga-0')
  })

  test('is refused where nobody can search a shard', () => {
    expect(() => planRetrieval(input([shard(3, [])]), new StageCosts())).toThrow(
      'No device can search shard 3.',
    )
  })

  test('is done as early as any assignment of its shards allows', () => {
    const anyShard = fc.record({
      postingsBytes: fc.integer({ min: 1_000, max: 100_000_000 }),
      devices: fc.uniqueArray(fc.nat(2), { minLength: 1 }),
    })
    fc.assert(
      fc.property(fc.array(anyShard, { minLength: 1, maxLength: 5 }), (shards) => {
        const devices = [...fpgas, owner]
        const costs = new StageCosts()
        const plan = planRetrieval(
          input(
            shards.map(({ postingsBytes, devices: able }, index) => ({
              ...shard(index, held(able.flatMap((at) => devices[at] ?? []))),
              postingsBytes,
            })),
          ),
          costs,
        )
        const ms = (index: number, deviceId: string): number => {
          const device = devices.find((facts) => facts.deviceId === deviceId)
          const work = retrievalWork({
            documents: 1_000_000,
            postingsBytes: shards[index]?.postingsBytes ?? 0,
          })
          if (!device) throw new Error(`${deviceId} is not there.`)
          return costs.stageMs(device, 'a', work.relevancy) + costs.stageMs(device, 'b', work.retrieval)
        }
        const makespan = (assigned: readonly string[]): number => {
          const busy = new Map<string, number>()
          assigned.forEach((deviceId, index) => {
            busy.set(deviceId, (busy.get(deviceId) ?? 0) + ms(index, deviceId))
          })
          return Math.max(...busy.values())
        }
        const all = shards.reduce<string[][]>(
          (assignments, { devices: able }) =>
            assignments.flatMap((assigned) => able.map((at) => [...assigned, devices[at]?.deviceId ?? ''])),
          [[]],
        )
        const planned = shards.map((_shard, index) => plan.shardDevices.get(index) ?? '')
        const bestMs = Math.min(...all.map(makespan))
        // One device for everything may win over it, for what a single device's transfers save.
        expect(makespan(planned)).toBeLessThan(bestMs + 0.5)
      }),
    )
  })
})
