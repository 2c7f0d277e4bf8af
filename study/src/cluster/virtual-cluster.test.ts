import { SHARED_BOUNDS } from '@kvasir/agent/core/shared-bounds'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type TestPlan, testPlan } from '../testing/plans.js'
import type { RequestOutcome, RunSummary, VirtualRequest } from './request.js'
import { VirtualCluster } from './virtual-cluster.js'
import type { ClusterOptions } from './world.js'

type Faults = (cluster: VirtualCluster) => void

function play(
  requests: readonly VirtualRequest[],
  wish: TestPlan = {},
  options: Partial<ClusterOptions> = {},
  faults: Faults = () => {},
): { readonly outcomes: RequestOutcome[]; readonly summary: RunSummary; readonly cluster: VirtualCluster } {
  const outcomes: RequestOutcome[] = []
  const cluster = new VirtualCluster(testPlan(wish), {
    seed: 1,
    onOutcome: (outcome) => outcomes.push(outcome),
    ...options,
  })
  faults(cluster)
  return { outcomes, summary: cluster.run(requests), cluster }
}

function request(index: number, wish: Partial<VirtualRequest> = {}): VirtualRequest {
  return {
    requestId: `r${index}`,
    arrivalMs: 1_000 + index * 200,
    promptTokens: 512,
    outputTokens: 32,
    blocks: [],
    ...wish,
  }
}

function requests(count: number, wish: (index: number) => Partial<VirtualRequest> = () => ({})) {
  return Array.from({ length: count }, (_, index) => request(index, wish(index)))
}

const ttftMs = ({ firstTokenMs, request: { arrivalMs } }: RequestOutcome) => firstTokenMs - arrivalMs
const tpotMs = ({ endMs, firstTokenMs, tokens }: RequestOutcome) => (endMs - firstTokenMs) / (tokens - 1)

/** A shared beginning of half the prompt, and an end of one's own. */
const sharing = (index: number): Partial<VirtualRequest> => ({
  blocks: Array.from({ length: 32 }, (_, block) => (block < 16 ? block : (index + 1) * 1_000 + block)),
})

const KV_BYTES_PER_TOKEN = 262_144
/** Devices that hold three prompts of `crowding`. */
const CROWDED: TestPlan = { gpus: 1, fpgas: 1, kvTokens: 700, hostTokens: 100_000 }
const CROWDED_LAST_MS = 31_000

/** Prompts of 12 blocks that drive each other out of a device, the last the same as the first. */
function crowding(last: Partial<VirtualRequest> = {}): VirtualRequest[] {
  const all = [0, 1_000, 2_000, 3_000, 4_000, 5_000, 0]
  return all.map((from, index) =>
    request(index, {
      arrivalMs: 1_000 + index * 5_000,
      promptTokens: 192,
      outputTokens: 2,
      blocks: Array.from({ length: 12 }, (_, block) => from + block),
      ...(index === all.length - 1 ? last : {}),
    }),
  )
}

function hostOf({ summary }: { readonly summary: RunSummary }) {
  return summary.devices.find(({ deviceId }) => deviceId.startsWith('host'))
}

describe('an undisturbed request', () => {
  it('takes the times that the catalogue gives: prefill on the GPU, decode steps on the FPGA', () => {
    const { outcomes } = play([request(0)])
    const [outcome] = outcomes
    if (!outcome) throw new Error('no outcome')
    expect(outcome).toMatchObject({ end: 'finished', tokens: 32, prefillDevice: 'gpu-0', placements: 1 })
    expect(outcome.decodeDevice).toMatch(/fpga/)
    // 2 · 6.476e9 · 512 + 4 · 512² · 4096 · 32 operations at 0.4077 of 130e12 a second.
    expect(outcome.prefillMs).toBeCloseTo(127.7, 0)
    expect(ttftMs(outcome)).toBeGreaterThan(outcome.prefillMs)
    expect(ttftMs(outcome)).toBeLessThan(outcome.prefillMs + 1)
    expect(tpotMs(outcome)).toBeGreaterThan(19)
    expect(tpotMs(outcome)).toBeLessThan(21)
    expect(outcome.kvBytes).toBeCloseTo(512 * 262_144, -2)
  })

  it('has its KV sent while it is prefilled: what is left at the end is the last group of layers', () => {
    const { outcomes } = play([request(0)])
    // Two of 32 layers of 134 MB at 11.7 to 12.5 GB/s.
    expect(outcomes[0]?.exposedMs).toBeGreaterThan(0.6)
    expect(outcomes[0]?.exposedMs).toBeLessThan(0.8)
  })

  it('ends at its stop token where the model stops before the limit', () => {
    const { outcomes } = play([request(0, { maxTokens: 100, outputTokens: 10 })])
    expect(outcomes[0]).toMatchObject({ end: 'finished', tokens: 10 })
    const first = play([request(0, { maxTokens: 100, outputTokens: 1 })])
    expect(first.outcomes[0]).toMatchObject({ end: 'finished', tokens: 1 })
  })
})

describe('cached blocks', () => {
  it('are not computed again where they are', () => {
    const { outcomes } = play(requests(4, sharing))
    expect(outcomes.map(({ cachedTokens }) => cachedTokens).toSorted((a, b) => a - b)).toEqual([
      0, 256, 256, 256,
    ])
  })

  it('that left a full device come back from the host tier of its machine', () => {
    const run = play(crowding(), CROWDED)
    const last = run.outcomes.at(-1)
    expect(last?.fetchedTokens).toBeGreaterThan(0)
    const host = hostOf(run)
    expect(host?.tiers[0]?.hits).toBeGreaterThan(0)
    expect(host?.sentBytes).toBe((last?.fetchedTokens ?? 0) * KV_BYTES_PER_TOKEN)
  })

  it('that leave a device faster than its host takes them are dropped, as by a real agent', () => {
    const all = [0, 5_000].map((from, index) =>
      request(index, {
        arrivalMs: 1_000 + index * 5_000,
        promptTokens: 1_024,
        blocks: Array.from({ length: 64 }, (_, block) => from + block),
      }),
    )
    const run = play(all, { gpus: 1, fpgas: 1, kvTokens: 1_100, hostTokens: 100_000 }, { lingerMs: 1_000 })
    const received = hostOf(run)?.receivedBytes ?? 0
    expect(received).toBeGreaterThan(0)
    // Each of the two devices gives up its blocks at once.
    expect(received).toBeLessThanOrEqual(2 * SHARED_BOUNDS.stagingBytesMin)
  })
})

it('fetches nothing more for a client that has left', () => {
  const host = (leavesAfterMs?: number) =>
    hostOf(
      play(
        crowding(leavesAfterMs === undefined ? {} : { leavesAfterMs }),
        CROWDED,
        { lingerMs: 5_000 },
        // So that it takes some 400 ms.
        (cluster) => cluster.at(CROWDED_LAST_MS - 1_000, () => cluster.slowLink('gpu-0', 0.01)),
      ),
    )
  expect(host()?.sentBytes).toBeGreaterThan(0)
  const left = host(100)
  expect(left?.tiers[0]?.hits).toBeGreaterThan(0)
  expect(left?.sentBytes).toBe(0)
})

it('computes what a source that falls silent does not send, as a real agent', () => {
  const { outcomes } = play(crowding(), CROWDED, {}, (cluster) => {
    // No message of a megabyte passes in three seconds, though a little always does.
    cluster.at(CROWDED_LAST_MS - 1_000, () => cluster.slowLink('gpu-0', 1e-6))
    cluster.at(CROWDED_LAST_MS + 5_000, () => cluster.slowLink('gpu-0', 1))
  })
  const last = outcomes.at(-1)
  if (!last) throw new Error('no outcome')
  expect(last).toMatchObject({ end: 'finished', fetchedTokens: 0 })
  expect(ttftMs(last)).toBeGreaterThan(SHARED_BOUNDS.fetchSilenceMs)
  expect(ttftMs(last)).toBeLessThan(SHARED_BOUNDS.fetchSilenceMs * 2)
})

it('plays once: a second run is refused, since outcomes and figures would mix', () => {
  const { cluster } = play([request(0)])
  expect(() => cluster.run([request(1)])).toThrow(/make another/)
})

describe('a device that is lost', () => {
  const long = () => ({ outputTokens: 200 })

  it('costs its requests a new placement, and no token twice or none', () => {
    const emitted = new Map<string, number>()
    const { outcomes } = play(
      requests(4, long),
      {},
      {
        probe: {
          emit(requestId, from, count) {
            expect(from).toBe(emitted.get(requestId) ?? 0)
            emitted.set(requestId, from + count)
          },
        },
      },
      (cluster) => cluster.at(3_000, () => cluster.crash('fpga-0')),
    )
    expect(outcomes.every(({ end, tokens }) => end === 'finished' && tokens === 200)).toBe(true)
    expect(outcomes.some(({ placements }) => placements > 1)).toBe(true)
    expect([...emitted.values()]).toEqual([200, 200, 200, 200])
  })

  it('serves again once it is restarted', () => {
    const { outcomes } = play(
      [...requests(2, long), request(50, { arrivalMs: 60_000 })],
      { fpgas: 1, gpus: 1 },
      {},
      (cluster) => {
        cluster.at(2_000, () => cluster.crash('fpga-0'))
        cluster.at(20_000, () => cluster.restart('fpga-0'))
      },
    )
    expect(outcomes.at(-1)).toMatchObject({ end: 'finished', decodeDevice: 'fpga-0', placements: 1 })
  })

  it.each([
    ['stands still', (cluster: VirtualCluster) => cluster.stall('fpga-0', 30_000)],
    ['is cut off', (cluster: VirtualCluster) => cluster.partition('coordinator', 'fpga-0', 'both')],
    ['hears nothing', (cluster: VirtualCluster) => cluster.partition('coordinator', 'fpga-0', 'a-to-b')],
  ])('is noticed when it %s', (_name, fault) => {
    const { outcomes } = play(requests(4, long), {}, {}, (cluster) => cluster.at(3_000, () => fault(cluster)))
    expect(outcomes.every(({ end, tokens }) => end === 'finished' && tokens === 200)).toBe(true)
    expect(outcomes.some(({ placements }) => placements > 1)).toBe(true)
    expect(Math.max(...outcomes.map(({ endMs }) => endMs))).toBeLessThan(30_000)
  })
})

it('goes on through an outage of the bus', () => {
  const { outcomes } = play(
    requests(20, () => ({ outputTokens: 64 })),
    {},
    {},
    (cluster) => {
      cluster.at(1_500, () => cluster.busDown())
      cluster.at(20_000, () => cluster.busUp())
    },
  )
  expect(outcomes.every(({ end }) => end === 'finished')).toBe(true)
})

it('frees what a client that leaves held', () => {
  const { outcomes, cluster } = play(
    requests(6, (index) => ({ outputTokens: 500, ...(index % 2 === 0 ? { leavesAfterMs: 700 } : {}) })),
    {},
    { lingerMs: 2_000 },
  )
  expect(outcomes.filter(({ end }) => end === 'cancelled').length).toBe(3)
  for (const id of ['gpu-0', 'fpga-0', 'fpga-1']) {
    expect(cluster.agent(id)?.core.load()).toMatchObject({ leases: 0, sequences: 0, decodeSlotsUsed: 0 })
  }
  expect(cluster.coordinator.core.activeCount).toBe(0)
})

it('tells the same of a run whether its steps are events each for itself or runs of them', () => {
  const wish = fc.record({
    count: fc.integer({ min: 1, max: 12 }),
    everyMs: fc.integer({ min: 20, max: 900 }),
    output: fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 12, maxLength: 12 }),
    slots: fc.integer({ min: 1, max: 3 }),
    crashMs: fc.option(fc.integer({ min: 1_100, max: 6_000 })),
  })
  fc.assert(
    fc.property(wish, ({ count, everyMs, output, slots, crashMs }) => {
      const all = requests(count, (index) => ({
        ...sharing(index % 3),
        arrivalMs: 1_000 + index * everyMs,
        outputTokens: output[index] ?? 1,
      }))
      const faults: Faults = (cluster) => {
        if (crashMs !== null) cluster.at(crashMs, () => cluster.crash('fpga-1'))
      }
      const [merged, single] = [true, false].map((coalesce) => {
        return play(all, { fpgaSlots: slots }, { coalesce }, faults).outcomes
      })
      const told = (outcomes: readonly RequestOutcome[] | undefined) =>
        outcomes
          ?.map(({ request: of, ...outcome }) => ({
            requestId: of.requestId,
            ...outcome,
            // Messages of a run arrive with its end, so that what is learned from them may differ in the last digits.
            firstTokenMs: Math.round(outcome.firstTokenMs * 100) / 100,
            endMs: Math.round(outcome.endMs * 10) / 10,
            predictedTtftMs: 0,
            predictedTpotMs: 0,
            prefillMs: Math.round(outcome.prefillMs * 10),
            exposedMs: Math.round(outcome.exposedMs * 10),
            kvBytes: Math.round(outcome.kvBytes),
          }))
          .toSorted((a, b) => (a.requestId < b.requestId ? -1 : 1))
      expect(told(merged)).toEqual(told(single))
    }),
    { numRuns: 20 },
  )
})

it('charges pages that move between memories once, also where steps run as one while planning rests', () => {
  const all = requests(6, () => ({ arrivalMs: 1_000, promptTokens: 400, outputTokens: 60 }))
  const [merged, single] = [true, false].map((coalesce) => {
    const { outcomes, summary } = play(all, { fpgas: 1, fpgaSlots: 6, blockTokens: 1 }, { coalesce })
    const fpga = summary.devices.find(({ deviceId }) => deviceId === 'fpga-0')
    expect(fpga?.tiers[1]?.inBytes).toBeGreaterThan(0)
    return { endMs: outcomes.map(({ endMs }) => Math.round(endMs * 10)), decodeMs: fpga?.decodeMs ?? 0 }
  })
  expect(merged?.decodeMs).toBeCloseTo(single?.decodeMs ?? 0, 1)
  expect(merged?.endMs).toEqual(single?.endMs)
})

it('reads more KV with every step of a run, also where it lies in several memories', () => {
  const all = requests(2, () => ({ arrivalMs: 1_000, outputTokens: 600 }))
  const [merged, single] = [true, false].map((coalesce) => {
    const { summary } = play(all, { fpgas: 1, tierPolicy: 'static' }, { coalesce })
    return summary.devices.find(({ deviceId }) => deviceId === 'fpga-0')?.decodeMs ?? 0
  })
  expect((merged ?? 0) / (single ?? 1)).toBeCloseTo(1, 6)
})

it('is the same to the last bit for the same plan and requests', () => {
  const run = () => {
    const { outcomes, summary } = play(
      requests(20, (index) => ({ ...sharing(index % 4), arrivalMs: 1_000 + index * 60 })),
      { hostTokens: 10_000, kvTokens: 3_000, machines: 2 },
      {},
      (cluster) => cluster.at(2_500, () => cluster.restart('fpga-0')),
    )
    return JSON.stringify([outcomes, summary])
  }
  expect(run()).toBe(run())
})
