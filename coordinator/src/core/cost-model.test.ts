import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CostModel } from './cost-model.js'
import type { DeviceFacts, ModelFacts } from './facts.js'
import { TEST_MODEL_DIGEST, testDevice } from './testing/devices.js'

const device = testDevice({ deviceId: 'gpu-0' })
const untried = testDevice({ deviceId: 'gpu-1' })
const model = modelOf(device)
const known = (deviceId: string): DeviceFacts | undefined =>
  [device, untried].find((facts) => facts.deviceId === deviceId)

function modelOf(facts: DeviceFacts): ModelFacts {
  const first = facts.models[0]
  if (!first) throw new Error('The test device has a model.')
  return first
}

const decoded = (stepMs: number) => ({
  modelDigest: TEST_MODEL_DIGEST,
  profile: 'exact' as const,
  decode: { deviceId: 'gpu-0', steps: 100, stepsMs: 100 * stepMs, batch: 1, contextTokens: 64 },
})

describe('the cost model', () => {
  test('takes the roof that binds: bandwidth for one sequence, arithmetic for many', () => {
    const costs = new CostModel()
    // 12 MB of weights at 10 GB/s take 1.2 ms; 2 · 3e6 operations a sequence at 100 GFLOP/s 0.06 ms;
    // the first guess is that 0.4 of either is reached.
    expect(costs.stepMs(device, model, 1, 0)).toBeCloseTo(1.2 / 0.4)
    expect(costs.stepMs(device, model, 100, 0)).toBeCloseTo(6 / 0.4)
  })

  test('predicts what it measured, and for an untried device what the others reached', () => {
    const costs = new CostModel()
    for (let count = 0; count < 30; count += 1) costs.observe(decoded(5), known)
    expect(costs.stepMs(device, model, 1, 64)).toBeCloseTo(5)
    expect(costs.stepMs(untried, modelOf(untried), 1, 64)).toBeCloseTo(5)
    expect(costs.isTrusted(device, model, 'decode')).toBe(true)
    expect(costs.isTrusted(untried, modelOf(untried), 'decode')).toBe(false)
  })

  test('learns the rate of a link from transfers', () => {
    const costs = new CostModel()
    const before = costs.transferMs(device, untried, 1e6)
    const transfer = { fromDeviceId: 'gpu-0', toDeviceId: 'gpu-1', bytes: 1e6, busyMs: 10 }
    costs.observe({ modelDigest: TEST_MODEL_DIGEST, profile: 'exact', transfer }, known)
    expect(before).toBeCloseTo(1.1)
    // What was seen, whose latency is not counted twice; more bytes take longer by the link's own rate.
    expect(costs.transferMs(device, untried, 1e6)).toBeCloseTo(10)
    expect(costs.transferMs(device, untried, 2e6)).toBeCloseTo(2 * 9.9 + 0.1)
    expect(costs.transferMs(device, device, 1e6)).toBe(0)
  })

  test('learns the rate of a link from fetches too, apart from the latency that is advertised', () => {
    const costs = new CostModel()
    const fetch = { fromDeviceId: 'gpu-0', toDeviceId: 'gpu-1', bytes: 4e6, fetchMs: 40.2 }
    const record = { modelDigest: TEST_MODEL_DIGEST, profile: 'exact' as const, fetch }
    costs.observe({ ...record, fetch: { ...fetch, bytes: 1_000 } }, known)
    expect(costs.transferMs(device, untried, 1e6)).toBeCloseTo(1.1)
    costs.observe(record, known)
    expect(costs.fetchMs(device, untried, 1e6)).toBeCloseTo(10.2)
    expect(costs.transferMs(device, untried, 1e6)).toBeCloseTo(10.1)
  })

  test('charges what is left of a prompt for reading what is reused, and less than the whole', () => {
    const costs = new CostModel()
    const rest = costs.prefillMs(device, model, 500, 1_500)
    expect(rest).toBeGreaterThan(costs.prefillMs(device, model, 500))
    expect(rest).toBeLessThan(costs.prefillMs(device, model, 2_000))
  })

  test('charges those ahead as prompts of their own: so many of one length take so many times as long', () => {
    const costs = new CostModel()
    // Long enough that arithmetic binds, with attention a good part of it.
    const tokens = fc.integer({ min: 256, max: 32_768 })
    const wide = { ...model, kvBytesPerToken: 1 << 16 }
    fc.assert(
      fc.property(tokens, fc.integer({ min: 1, max: 12 }), (tokens, ahead) => {
        const aloneMs = costs.prefillMs(device, wide, tokens)
        const lastMs = costs.prefillMs(device, wide, tokens, 0, ahead * tokens)
        expect(lastMs / ((ahead + 1) * aloneMs)).toBeCloseTo(1, 9)
        expect(lastMs).toBeLessThan(costs.prefillMs(device, wide, (ahead + 1) * tokens))
        expect(costs.aheadMs(device, wide, ahead * tokens, tokens) / (ahead * aloneMs)).toBeCloseTo(1, 9)
      }),
    )
  })

  test('saves the same by reuse whoever is ahead, who never make it quicker', () => {
    const costs = new CostModel()
    const wide = { ...model, kvBytesPerToken: 1 << 16 }
    const few = fc.integer({ min: 0, max: 40_000 })
    fc.assert(
      fc.property(fc.integer({ min: 512, max: 8_192 }), few, few, (tokens, some, more) => {
        const whole = costs.prefillMs(device, wide, 2 * tokens, 0, some)
        const rest = costs.prefillMs(device, wide, tokens, tokens, some)
        const savedMs =
          costs.prefillMs(device, wide, 2 * tokens) - costs.prefillMs(device, wide, tokens, tokens)
        expect((whole - rest) / savedMs).toBeCloseTo(1, 6)
        expect(costs.prefillMs(device, wide, tokens, 0, some + more)).toBeGreaterThanOrEqual(
          costs.prefillMs(device, wide, tokens, 0, some),
        )
      }),
    )
  })

  test('takes no measure of whole prompts from one that was mostly reused', () => {
    const costs = new CostModel()
    const before = costs.prefillMs(device, model, 1_000)
    const prefill = { deviceId: 'gpu-0', tokens: 16, contextTokens: 1_000, computeMs: 500 }
    costs.observe({ modelDigest: TEST_MODEL_DIGEST, profile: 'exact', prefill }, known)
    expect(costs.prefillMs(device, model, 1_000)).toBe(before)
    costs.observe(
      { modelDigest: TEST_MODEL_DIGEST, profile: 'exact', prefill: { ...prefill, contextTokens: 0 } },
      known,
    )
    expect(costs.prefillMs(device, model, 1_000)).toBeGreaterThan(before)
  })

  test('forgets a device that left: it is thought to be like the others again', () => {
    const costs = new CostModel()
    const onOther = { ...decoded(5), decode: { ...decoded(5).decode, deviceId: 'gpu-1' } }
    costs.observe(decoded(500), known)
    for (let count = 0; count < 30; count += 1) costs.observe(onOther, known)
    expect(costs.stepMs(device, model, 1, 64)).toBeCloseTo(500)
    const transfer = { fromDeviceId: 'gpu-1', toDeviceId: 'gpu-0', bytes: 1e6, busyMs: 10 }
    costs.observe({ modelDigest: TEST_MODEL_DIGEST, profile: 'exact', transfer }, known)
    costs.forget('gpu-0')
    expect(costs.stepMs(device, model, 1, 64)).toBeLessThan(6)
    expect(costs.transferMs(untried, device, 1e6)).toBeCloseTo(1.1)
  })

  test('learns nothing of a link to a device that has left before its last request ended', () => {
    const costs = new CostModel()
    const moved = { bytes: 4e6, busyMs: 10, fetchMs: 10 }
    for (const [fromDeviceId, toDeviceId] of [
      ['left-0', 'gpu-0'],
      ['gpu-0', 'left-0'],
    ] as const) {
      const between = { ...moved, fromDeviceId, toDeviceId }
      costs.observe(
        { modelDigest: TEST_MODEL_DIGEST, profile: 'exact', transfer: between, fetch: between },
        known,
      )
      expect(costs.seenRate(fromDeviceId, toDeviceId)).toBeUndefined()
    }
  })

  test('stays finite and positive whatever is advertised and measured', () => {
    const rate = fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1e15, noNaN: true }))
    fc.assert(
      fc.property(
        rate,
        rate,
        fc.double({ min: -1, max: 1e9 }),
        fc.nat(4_096),
        (ops, bytes, stepMs, tokens) => {
          const odd = testDevice({ deviceId: 'odd-0', opsPerSecond: ops, bytesPerSecond: bytes })
          const costs = new CostModel()
          costs.observe(
            { ...decoded(stepMs), decode: { ...decoded(stepMs).decode, deviceId: 'odd-0' } },
            () => odd,
          )
          for (const ms of [
            costs.stepMs(odd, modelOf(odd), 4, tokens),
            costs.prefillMs(odd, modelOf(odd), tokens),
            costs.transferMs(odd, device, tokens),
          ]) {
            expect(Number.isFinite(ms) && ms > 0).toBe(true)
          }
        },
      ),
    )
  })
})
