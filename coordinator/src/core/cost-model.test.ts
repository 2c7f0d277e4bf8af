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
    expect(costs.transferMs(device, untried, 1e6)).toBeCloseTo(10.1)
    expect(costs.transferMs(device, device, 1e6)).toBe(0)
  })

  test('forgets a device that left', () => {
    const costs = new CostModel()
    const fresh = costs.stepMs(device, model, 1, 64)
    costs.observe(decoded(500), known)
    costs.forget('gpu-0')
    costs.forget('*')
    expect(costs.stepMs(device, model, 1, 64)).toBe(fresh)
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
