/** Who is placed next, whoever comes and goes meanwhile. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { PATIENCE_MS, SERVED_IN_A_ROW, type Waiting } from './wait-line.js'
import { type Offer, WaitQueue } from './wait-queue.js'

interface Told {
  readonly tenant?: string
  readonly priority?: number
  readonly workTokens?: number
  readonly orderKey?: number
  readonly line?: string
  readonly hasBegun?: boolean
  readonly submittedAtMs?: number
}

let arrivals = 0

function waiting(told: Told = {}): Waiting {
  arrivals += 1
  return {
    requestId: `r${arrivals}`,
    arrival: arrivals,
    submittedAtMs: 0,
    hasBegun: false,
    line: 'model/exact',
    tenant: '',
    priority: 0,
    workTokens: 100,
    orderKey: arrivals,
    ...told,
  }
}

/** Takes `count` requests, one at a time. */
function takeNext(queue: WaitQueue<Waiting>, count: number, nowMs = 0): Waiting[] {
  const taken: Waiting[] = []
  for (let turn = 0; turn < count; turn += 1) {
    let isFirst = true
    queue.sweep(nowMs, (request): Offer => {
      if (!isFirst) return 'blocked'
      isFirst = false
      taken.push(request)
      return 'taken'
    })
  }
  return taken
}

describe('the order of those that wait', () => {
  test('is that of arrival among equals', () => {
    const queue = new WaitQueue(100)
    const requests = Array.from({ length: 20 }, () => waiting())
    for (const request of requests) queue.add(request)
    expect(takeNext(queue, 20)).toEqual(requests)
    expect(queue.length).toBe(0)
  })

  test('puts those that had begun first, then higher priorities', () => {
    const queue = new WaitQueue(100)
    const low = waiting({ priority: -1 })
    const plain = waiting()
    const high = waiting({ priority: 5 })
    const begun = waiting({ hasBegun: true, priority: -10 })
    for (const request of [low, plain, high, begun]) queue.add(request)
    expect(takeNext(queue, 4)).toEqual([begun, high, plain, low])
  })

  test('follows the policy within a priority', () => {
    const queue = new WaitQueue(100)
    const [late, soon] = [waiting({ orderKey: 9 }), waiting({ orderKey: 3 })]
    for (const request of [late, soon]) queue.add(request)
    expect(takeNext(queue, 2)).toEqual([soon, late])
  })

  test('goes on with another model where the first of one finds no place', () => {
    const queue = new WaitQueue(100)
    const [a, b] = [waiting({ line: 'a/exact' }), waiting({ line: 'a/exact' })]
    const other = waiting({ line: 'b/exact' })
    for (const request of [a, b, other]) queue.add(request)
    const offered: Waiting[] = []
    queue.sweep(0, (request) => {
      offered.push(request)
      return request === a ? 'blocked' : 'taken'
    })
    expect(offered).toEqual([a, other])
  })

  test('passes one over that says nothing of those behind it, and offers it again', () => {
    const queue = new WaitQueue(100)
    const [picky, next] = [waiting(), waiting()]
    for (const request of [picky, next]) queue.add(request)
    queue.sweep(0, (request) => (request === picky ? 'aside' : 'taken'))
    expect(queue.length).toBe(1)
    expect(takeNext(queue, 1)).toEqual([picky])
    expect(queue.length).toBe(0)
  })

  test('offers all of many that stand aside in turn', () => {
    const queue = new WaitQueue(1_000)
    for (let count = 0; count < 100; count += 1) queue.add(waiting())
    const offered = new Set<string>()
    for (let sweep = 0; sweep < 9; sweep += 1) {
      let offers = 0
      queue.sweep(0, (request) => {
        offers += 1
        if (sweep > 0) offered.add(request.requestId)
        return 'aside'
      })
      if (sweep > 0) expect(offers).toBeLessThanOrEqual(16)
    }
    expect(offered.size).toBe(100)
  })
})

const anyStep = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      tenant: fc.constantFrom('a', 'b', 'c'),
      priority: fc.integer({ min: -2, max: 2 }),
    }),
  },
  { weight: 3, arbitrary: fc.constant('take' as const) },
  { weight: 1, arbitrary: fc.nat().map((index) => ({ leaves: index })) },
)

describe('whoever comes and goes', () => {
  test('within a tenant and priority the order is that of arrival, nobody is lost and nobody served twice', () => {
    fc.assert(
      fc.property(fc.array(anyStep, { maxLength: 200 }), (steps) => {
        const queue = new WaitQueue<Waiting>(1_000)
        const here: Waiting[] = []
        for (const step of steps) {
          if (step === 'take') {
            const [taken] = takeNext(queue, 1)
            expect(taken === undefined).toBe(here.length === 0)
            if (!taken) continue
            const alike = here.filter(({ tenant, priority }) => {
              return tenant === taken.tenant && priority === taken.priority
            })
            expect(alike[0]).toBe(taken)
            expect(Math.max(...here.map(({ priority }) => priority))).toBe(taken.priority)
            here.splice(here.indexOf(taken), 1)
          } else if ('leaves' in step) {
            const [left] = here.splice(step.leaves % Math.max(1, here.length), 1)
            if (left) queue.remove(left)
          } else {
            const request = waiting(step)
            queue.add(request)
            here.push(request)
          }
          expect(queue.length).toBe(here.length)
        }
      }),
    )
  })

  test('a tenant that always has work waiting gets its weight’s share of the work, but for two requests', () => {
    const anyWork = fc.array(fc.integer({ min: 1, max: 1_000 }), { minLength: 300, maxLength: 300 })
    fc.assert(
      fc.property(
        anyWork,
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 4 }),
        (work, count, weight) => {
          const weightOf = (tenant: string): number => (tenant === 't0' ? weight : 1)
          const queue = new WaitQueue<Waiting>(1_000, weightOf)
          const tenants = Array.from({ length: count }, (_, index) => `t${index}`)
          const given = new Map<string, number>()
          const refill = (tenant: string, at: number): void => {
            queue.add(waiting({ tenant, workTokens: work[at % work.length] ?? 1 }))
          }
          tenants.forEach((tenant, index) => {
            for (let more = 0; more < 3; more += 1) refill(tenant, index + more)
          })
          let all = 0
          for (let turn = 0; turn < 300; turn += 1) {
            const [taken] = takeNext(queue, 1)
            if (!taken) throw new Error('Nobody waits.')
            all += taken.workTokens
            given.set(taken.tenant, (given.get(taken.tenant) ?? 0) + taken.workTokens)
            refill(taken.tenant, turn)
          }
          for (const tenant of tenants) {
            const share = weightOf(tenant) / (count - 1 + weight)
            expect(given.get(tenant) ?? 0).toBeGreaterThan(all * share - 2_000 * weightOf(tenant))
          }
        },
      ),
      { numRuns: 50 },
    )
  })

  test('a tenant that was away has saved up nothing', () => {
    const queue = new WaitQueue<Waiting>(1_000)
    for (let count = 0; count < 50; count += 1) queue.add(waiting({ tenant: 'busy' }))
    takeNext(queue, 40)
    for (let count = 0; count < 20; count += 1) queue.add(waiting({ tenant: 'back' }))
    const next = takeNext(queue, 10).map(({ tenant }) => tenant)
    expect(next.filter((tenant) => tenant === 'busy').length).toBeGreaterThanOrEqual(4)
  })

  test('a low priority is passed over for a while and not for ever', () => {
    const queue = new WaitQueue<Waiting>(10_000)
    const low = waiting({ priority: -10 })
    queue.add(low)
    let nowMs = 0
    let turns = 0
    for (let isWaiting = true; isWaiting; turns += 1) {
      queue.add(waiting({ priority: 10, submittedAtMs: nowMs }))
      nowMs += 100
      isWaiting = takeNext(queue, 1, nowMs)[0] !== low
    }
    expect(turns).toBeGreaterThan(PATIENCE_MS / 100 - 1)
    expect(turns).toBeLessThanOrEqual(PATIENCE_MS / 100 + SERVED_IN_A_ROW)
  })

  test('what was not used of a charge counts for the tenant', () => {
    const queue = new WaitQueue<Waiting>(100)
    const first = waiting({ tenant: 'a', workTokens: 1_000 })
    queue.add(first)
    queue.add(waiting({ tenant: 'a', workTokens: 1_000 }))
    queue.add(waiting({ tenant: 'b', workTokens: 500 }))
    queue.add(waiting({ tenant: 'b', workTokens: 500 }))
    takeNext(queue, 1)
    queue.settle(first, 1)
    expect(takeNext(queue, 2).map(({ tenant }) => tenant)).toEqual(['b', 'a'])
  })
})

describe('the one that is worth least', () => {
  const never = () => false

  test('has the lowest priority, and is the newest of the tenant with the most work waiting', () => {
    const queue = new WaitQueue<Waiting>(3)
    const high = waiting({ priority: 1, tenant: 'a', workTokens: 10_000 })
    const small = waiting({ tenant: 'b' })
    const older = waiting({ tenant: 'a' })
    const newer = waiting({ tenant: 'a' })
    for (const request of [high, small, older, newer]) queue.add(request)
    expect(queue.isOverfull).toBe(true)
    expect(queue.leastWorth(never)).toBe(newer)
    expect(queue.leastWorth((request) => request === older)).toBe(older)
  })

  test('is found among those that stand aside, too', () => {
    const queue = new WaitQueue<Waiting>(1)
    const [low, older, newer] = [waiting({ priority: -1 }), waiting(), waiting()]
    for (const request of [low, older, newer]) queue.add(request)
    queue.sweep(0, () => 'aside')
    const high = waiting({ priority: 2 })
    queue.add(high)
    expect(queue.leastWorth(never)).toBe(low)
    queue.remove(low)
    expect(queue.leastWorth(never)).toBe(newer)
  })

  test('is never one that had begun, which takes up room like the others', () => {
    const queue = new WaitQueue<Waiting>(1)
    queue.add(waiting({ hasBegun: true, priority: -10 }))
    expect(queue.leastWorth(never)).toBeUndefined()
    expect(queue.isOverfull).toBe(false)
    const newest = waiting()
    queue.add(newest)
    expect(queue.isOverfull).toBe(true)
    expect(queue.leastWorth(never)).toBe(newest)
  })
})

test('work ahead is that of higher priorities, and of others no more than the shares let pass', () => {
  const queue = new WaitQueue<Waiting>(100)
  for (let count = 0; count < 10; count += 1) queue.add(waiting({ tenant: 'flood' }))
  queue.add(waiting({ priority: 3, tenant: 'urgent' }))
  expect(queue.tokensAhead(waiting({ tenant: 'flood' }))).toBe(1_100)
  expect(queue.tokensAhead(waiting({ tenant: 'quiet' }))).toBe(100)
  expect(queue.tokensAhead(waiting({ tenant: 'quiet', priority: 4 }))).toBe(0)
})
