/** Who is served under load: the core with devices that take longer or less than it predicts. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { LoadedCluster, type LoadedOutcome, type LoadedRun } from './testing/loaded-cluster.js'

const DEADLINE_MS = 2_000
const RUN: LoadedRun = {
  ...{ seed: 5, prefillers: 2, decoders: 6, decodeSlots: 8, slowness: 1, forMs: 20_000, perSecond: 1 },
  request: (random) => ({
    promptTokens: 1_000 + Math.floor(6_000 * random()),
    answerTokens: 16 + Math.floor(96 * random()),
    ttftDeadlineMs: DEADLINE_MS,
  }),
}
const MEAN = { promptTokens: 4_000, answerTokens: 64 }

function played(load: number, changes: Partial<LoadedRun> = {}): readonly LoadedOutcome[] {
  const run = { ...RUN, ...changes }
  return new LoadedCluster({ ...run, perSecond: load * LoadedCluster.sustainablePerSecond(run, MEAN) }).play()
}

/** Of all requests. */
function countOf(outcomes: readonly LoadedOutcome[], is: (outcome: LoadedOutcome) => boolean): number {
  return outcomes.filter(is).length
}

function isInTime({ firstTokenMs, arrivalMs, ttftDeadlineMs = 0 }: LoadedOutcome): boolean {
  return firstTokenMs !== null && firstTokenMs - arrivalMs <= ttftDeadlineMs
}

function waitedMs({ placedMs, arrivalMs }: LoadedOutcome): number {
  return (placedMs ?? Number.NaN) - arrivalMs
}

describe('requests with a deadline', () => {
  // Devices that are twice as fast and twice as slow as the cost model says, and it never learns of it.
  test.each([0.5, 1, 2])(
    'are served in time as much at three times the load, devices taking %s of what is predicted',
    (slowness) => {
      const request: LoadedRun['request'] = (random) => {
        return { ...RUN.request(random), ttftDeadlineMs: DEADLINE_MS * slowness }
      }
      const goodput = [0.5, 0.8, 1, 1.5, 2, 3].map((load) => {
        return countOf(played(load, { slowness, request, forMs: 10_000 * slowness }), isInTime)
      })
      expect(goodput.at(-1)).toBeGreaterThanOrEqual(0.9 * Math.max(...goodput))
    },
  )

  test('that would be late are refused at once, and hardly any of the others is late', () => {
    const outcomes = played(3)
    const shed = outcomes.filter(({ end }) => end === 'shed')
    const served = outcomes.filter(({ end }) => end === 'finish')
    expect(shed.length).toBeGreaterThan(served.length / 2)
    expect(countOf(shed, ({ placedMs }) => placedMs !== null)).toBe(0)
    expect(countOf(served, (outcome) => !isInTime(outcome))).toBeLessThan(0.05 * served.length)
    for (const { retryAfterMs } of shed) expect(retryAfterMs).toBeGreaterThanOrEqual(1_000)
  })

  test('are all served below what the cluster can do', () => {
    expect(countOf(played(0.7), ({ end }) => end !== 'finish')).toBe(0)
  })

  test('are served late rather than not where admission is off', () => {
    const outcomes = played(1.5, { limits: { admission: { isOn: false } } })
    expect(countOf(outcomes, ({ end }) => end === 'shed')).toBe(0)
    expect(
      countOf(outcomes, (outcome) => outcome.firstTokenMs !== null && !isInTime(outcome)),
    ).toBeGreaterThan(50)
  })

  test('may have it from the coordinator', () => {
    const { ttftDeadlineMs: _, ...rest } = RUN.request(() => 0.5)
    const outcomes = played(3, { request: () => rest, limits: { admission: { ttftDeadlineMs: 500 } } })
    expect(countOf(outcomes, ({ end }) => end === 'shed')).toBeGreaterThan(100)
  })

  test('are tried again after devices were slow for a while, since nothing else would show that they no longer are', () => {
    const request: LoadedRun['request'] = (random) => ({ ...RUN.request(random), ttftDeadlineMs: 300 })
    const run = { ...RUN, request, prefillers: 4, perSecond: 4 }
    const cluster = new LoadedCluster({ ...run, slowness: 8, slowUntilMs: 8_000 })
    const outcomes = cluster.play()
    const before = outcomes.filter(({ arrivalMs }) => arrivalMs < 8_000)
    const after = outcomes.filter(({ arrivalMs }) => arrivalMs > 14_000)
    expect(countOf(before, isInTime)).toBeLessThan(0.6 * before.length)
    expect(countOf(after, isInTime)).toBeGreaterThan(0.9 * after.length)
  })
})

describe('requests that ask for nothing', () => {
  const request: LoadedRun['request'] = (random) => {
    const { promptTokens, answerTokens } = RUN.request(random)
    return { promptTokens, answerTokens }
  }

  test('are placed in the order in which they come, and none is shed', () => {
    const outcomes = played(1.2, { request, forMs: 10_000 })
    expect(countOf(outcomes, ({ end }) => end !== 'finish')).toBe(0)
    const placed = outcomes.map(({ placedMs }) => placedMs ?? 0)
    expect(placed).toEqual(placed.toSorted((a, b) => a - b))
  })
})

describe('priorities and tenants', () => {
  test('what is urgent waits little where others wait long, and the others are served too', () => {
    const request: LoadedRun['request'] = (random) => {
      const { promptTokens, answerTokens } = RUN.request(random)
      return { promptTokens, answerTokens, priority: random() < 0.2 ? 5 : 0 }
    }
    const outcomes = played(1.3, { request })
    const mean = (priority: number): number => {
      const waits = outcomes.filter((one) => one.priority === priority && one.placedMs !== null).map(waitedMs)
      return waits.reduce((sum, one) => sum + one, 0) / waits.length
    }
    expect(mean(5)).toBeLessThan(0.25 * mean(0))
    expect(countOf(outcomes, ({ priority, end }) => priority === 0 && end === 'finish')).toBeGreaterThan(100)
  })

  test('a tenant that floods the cluster takes nothing of the share of one that does not', () => {
    const request: LoadedRun['request'] = (random) => {
      return { ...RUN.request(random), tenant: random() < 0.1 ? 'quiet' : 'flood' }
    }
    const outcomes = played(3, { request })
    const quiet = outcomes.filter(({ tenant }) => tenant === 'quiet')
    expect(countOf(quiet, isInTime)).toBeGreaterThan(0.95 * quiet.length)
    const flood = outcomes.filter(({ tenant }) => tenant === 'flood')
    expect(countOf(flood, isInTime)).toBeLessThan(0.6 * flood.length)
  })

  test('shares follow the weights', () => {
    const request: LoadedRun['request'] = (random) => {
      return { promptTokens: 4_000, answerTokens: 64, tenant: random() < 0.5 ? 'three' : 'one' }
    }
    const limits = { admission: { tenantWeights: { three: 3 } }, placementDeadlineMs: 3_000 }
    const outcomes = played(3, { request, limits })
    const served = (tenant: string) =>
      countOf(outcomes, (one) => one.tenant === tenant && one.end === 'finish')
    expect(served('three') / served('one')).toBeGreaterThan(2)
    expect(served('three') / served('one')).toBeLessThan(4)
  })
})

describe('a queue that is full', () => {
  const limits = { queuedMax: 10 }

  test('sheds what is worth least, never what runs', () => {
    const request: LoadedRun['request'] = (random) => {
      return { promptTokens: 4_000, answerTokens: 64, priority: Math.floor(3 * random()) }
    }
    const outcomes = played(3, { request, limits })
    const share = (priority: number) => {
      const asked = outcomes.filter((one) => one.priority === priority)
      return countOf(asked, ({ end }) => end === 'finish') / asked.length
    }
    expect(share(2)).toBeGreaterThan(0.8)
    expect(share(0)).toBeLessThan(0.3)
    expect(countOf(outcomes, ({ end, placedMs }) => end !== 'finish' && placedMs !== null)).toBe(0)
  })

  test('refuses the newest among equals', () => {
    const request = () => ({ promptTokens: 4_000, answerTokens: 64 })
    const outcomes = played(3, { request, limits })
    expect(countOf(outcomes, ({ end }) => end === 'overloaded')).toBeGreaterThan(100)
    expect(countOf(outcomes, ({ end }) => end === 'shed')).toBe(0)
  })
})

describe('any load', () => {
  const anyRun = fc.record({
    seed: fc.integer({ min: 1 }),
    slowness: fc.constantFrom(0.3, 1, 4),
    load: fc.constantFrom(0.5, 1.5, 4),
    queuedMax: fc.constantFrom(2, 20, 10_000),
    order: fc.constantFrom('fcfs', 'edf', 'least-slack', 'value'),
    pick: fc.constantFrom('house', 'earliest-finish', 'static-affinity', 'round-robin'),
    decodeAssist: fc.boolean(),
    deadlineMs: fc.constantFrom(undefined, 200, 2_000),
  })

  test('ends every request, and equal runs end alike', () => {
    fc.assert(
      fc.property(anyRun, ({ seed, slowness, load, queuedMax, order, pick, decodeAssist, deadlineMs }) => {
        const request: LoadedRun['request'] = (random) => ({
          promptTokens: 500 + Math.floor(4_000 * random()),
          answerTokens: 2 + Math.floor(60 * random()),
          priority: Math.floor(5 * random()) - 2,
          tenant: random() < 0.7 ? 'a' : 'b',
          ...(deadlineMs !== undefined && random() < 0.7 ? { ttftDeadlineMs: deadlineMs } : {}),
        })
        const limits = { queuedMax, policy: { order, pick, decodeAssist } }
        const changes = { seed, slowness, request, limits, forMs: 3_000 }
        const outcomes = played(load, changes)
        expect(countOf(outcomes, ({ end }) => end === null)).toBe(0)
        expect(countOf(outcomes, ({ end, placedMs }) => end === 'shed' && placedMs !== null)).toBe(0)
        expect(played(load, changes)).toEqual(outcomes)
      }),
      { numRuns: 40 },
    )
  })
})
