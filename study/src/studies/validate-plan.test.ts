/** The workload that is played twice. */
import { builtinCatalogue } from '@kvasir/catalogue/load-catalogue'
import { expect, test } from 'vitest'
import { compareRuns } from './validate-compare.js'
import { type ValidateWish, validatePlan } from './validate-plan.js'
import { type PlayedLoss, playVirtually } from './validate-virtual.js'

const wish: ValidateWish = { requests: 40, load: 0.8, seed: 3, liveLayers: 3, liveMergeLayers: 1 }
const plan = validatePlan(builtinCatalogue(), wish, 0.5)

test('the same wish makes the same plan, another seed another one', () => {
  expect(validatePlan(builtinCatalogue(), wish, 0.5)).toEqual(plan)
  expect(validatePlan(builtinCatalogue(), { ...wish, seed: 4 }, 0.5).requests).not.toEqual(plan.requests)
})

test('requests come at the asked share of what the cluster sustains', () => {
  expect(plan.ratePerS).toBeCloseTo(0.8 * plan.sustainablePerS)
  const lastMs = plan.requests.at(-1)?.arrivalMs ?? 0
  expect(plan.requests).toHaveLength(wish.requests)
  expect(((wish.requests - 1) / lastMs) * 1_000).toBeGreaterThan(plan.ratePerS / 2)
  expect(((wish.requests - 1) / lastMs) * 1_000).toBeLessThan(plan.ratePerS * 2)
  expect(plan.lossAtMs).toBeCloseTo(lastMs / 2)
})

test('a device that is lost and comes back moves its requests, and every request ends', () => {
  const [live = []] = play([])
  expect(live.filter(({ isFinished }) => isFinished)).toHaveLength(wish.requests)
  const { figures } = compareRuns({ live, virtual: play([]).slice(0, 1) })
  expect(figures).toMatchObject({ ttftError: 0, tpotError: 0, throughputError: 0 })
  expect(figures.movedLive).toBeGreaterThanOrEqual(1)
  expect(figures.gpuDecodesLive).toBeGreaterThan(0)
})

test('the device that is lost is the one of its kind that serves a request which the live loss hit', () => {
  const served = play([])[0]?.filter(
    ({ firstTokenMs, lastTokenMs }) => firstTokenMs < plan.lossAtMs && plan.lossAtMs < lastTokenMs,
  )
  const onFpgas = served?.filter(({ decodeDevice }) => decodeDevice.startsWith('fpga')) ?? []
  expect(onFpgas.length).toBeGreaterThan(0)
  for (const { requestId } of onFpgas) {
    const again = play([requestId])[0]?.find((played) => played.requestId === requestId)
    expect(again?.placements, requestId).toBe(2)
  }
})

function play(requestsHit: PlayedLoss['requestsHit']) {
  const { lossAtMs } = plan
  return playVirtually(plan, plan.requests, { lossAtMs, returnAtMs: lossAtMs + 3_000, requestsHit }, 3)
}
