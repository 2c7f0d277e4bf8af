import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type AttentionPlace, pagesOf, pagesWithin } from './attention-plan.js'
import { othersTokens, planAttention } from './attention-stages.js'
import { AttentionTimes } from './attention-times.js'
import { CostModel } from './cost-model.js'
import { StageCosts } from './stage-costs.js'
import { TEST_MODEL_DIGEST, testDevice } from './testing/devices.js'

const anyDevice = fc.record({
  opsPerSecond: fc.constantFrom(100e9, 20e12),
  bytesPerSecond: fc.constantFrom(10e9, 460e9, 1_935e9),
  linkBytesPerSecond: fc.constantFrom(1e9, 12e9),
  latencyMs: fc.constantFrom(0.0001, 0.05),
})
const anyBudget = fc.constantFrom(null, { tokens: 256 }, { share: 0.3 })
const placesOf = (...places: (readonly AttentionPlace[])[]) => fc.constantFrom(...places)
/** What a request may come to. */
const anyWay = fc.oneof(
  fc.record({
    method: fc.constant('page-bounds' as const),
    budget: anyBudget,
    places: placesOf(['local'], ['partial'], ['indices'], ['partial', 'indices']),
  }),
  fc.record({
    method: fc.constant('dense' as const),
    budget: fc.constant(null),
    places: placesOf(['local'], ['partial'], ['indices']),
  }),
  fc.record({ method: fc.constant('recent' as const), budget: anyBudget, places: placesOf(['local']) }),
)

test('the times of all ways to attend are those of their planned stages', () => {
  fc.assert(
    fc.property(
      fc.array(anyDevice, { minLength: 3, maxLength: 6 }),
      anyWay,
      fc.integer({ min: 16, max: 60_000 }),
      fc.integer({ min: 1, max: 256 }),
      fc.integer({ min: 1, max: 32 }),
      fc.constantFrom(0.5, 1, 4),
      (all, { method, budget, places }, contextTokens, steps, batch, slowness) => {
        const devices = all.map((one, index) => testDevice({ ...one, deviceId: `device-${index}` }))
        const [decode, prefill, ...attendants] = devices
        const model = decode?.models[0]
        if (!decode || !prefill || !model) throw new Error('There are two devices, which have a model.')
        const [costs, stageCosts] = [new CostModel(), new StageCosts()]
        const facts = (deviceId: string) => devices.find((device) => device.deviceId === deviceId)
        const decoded = { steps: 10, stepsMs: 30 * slowness, batch: 1, contextTokens: 100 }
        costs.observe(
          {
            modelDigest: TEST_MODEL_DIGEST,
            profile: 'exact',
            decode: { deviceId: devices.at(-1)?.deviceId ?? '', ...decoded },
          },
          facts,
        )
        stageCosts.observe(decode, 'page-scores', { operations: 1e6, readBytes: 1e6 }, slowness)
        const site = { model, prefill, decode, steps, costs, stageCosts }
        const times = new AttentionTimes(contextTokens, site).at(decode, model, batch, attendants, prefill)
        const pages = pagesOf(contextTokens)
        const shape = { method, pages, pagesRead: pagesWithin(budget, pages), promptPages: pages - 1 }
        const remote = places.filter((place) => place !== 'local')
        const way =
          remote.length === 0
            ? times.local(method, budget)
            : times.remote(method, budget, remote, Number.POSITIVE_INFINITY)
        if (method === 'dense' && remote.length === 0) {
          expect(way?.stepMs).toBe(costs.stepMs(decode, model, batch, contextTokens + steps))
          return
        }
        const planned = planAttention(shape, site, places, attendants)
        const restMs = costs.stepMs(decode, model, batch, othersTokens(contextTokens + steps, batch))
        expect(way?.place).toBe(planned?.place)
        expect(way?.attend?.deviceId).toBe(planned?.attend?.deviceId)
        if (planned) expect(way?.stepMs).toBe(restMs + planned.plan.totalMs)
      },
    ),
    { numRuns: 1_000 },
  )
})
