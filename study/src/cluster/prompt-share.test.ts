/** What the cost model learns of prompts does not depend on how many of them came at once. */
import type { CompletionRecord } from '@kvasir/coordinator/core/completion-record'
import { CostModel } from '@kvasir/coordinator/core/cost-model'
import type { DeviceFacts } from '@kvasir/coordinator/core/facts'
import { describe, expect, it } from 'vitest'
import { type TestPlan, testPlan } from '../testing/plans.js'
import type { RequestOutcome, VirtualRequest } from './request.js'
import { VirtualCluster } from './virtual-cluster.js'

function play(requests: readonly VirtualRequest[], wish: TestPlan) {
  const devices = new Map<string, DeviceFacts>()
  const records: CompletionRecord[] = []
  const outcomes: RequestOutcome[] = []
  const cluster = new VirtualCluster(testPlan(wish), {
    seed: 1,
    onOutcome: (outcome) => outcomes.push(outcome),
    probe: {
      coordinator(event) {
        if (event.type === 'advertised') devices.set(event.device.deviceId, event.device)
        if (event.type === 'completed') records.push(event.record)
      },
    },
  })
  const summary = cluster.run(requests)
  const costs = new CostModel()
  for (const record of records) costs.observe(record, (deviceId) => devices.get(deviceId))
  const gpu = devices.get('gpu-0')
  const model = gpu?.models[0]
  if (!gpu || !model) throw new Error('The GPU was not heard of.')
  const sharesMs = records.reduce((sum, { prefill }) => sum + (prefill?.computeMs ?? 0), 0)
  const wallMs = outcomes.reduce((sum, { prefillMs }) => sum + prefillMs, 0)
  return {
    efficiency: costs.efficiency(gpu, model, 'prefill'),
    busyMs: summary.devices.find(({ deviceId }) => deviceId === 'gpu-0')?.busyMs ?? Number.NaN,
    ...{ records, sharesMs, wallMs },
  }
}

/** Groups of `together` requests that come at once. */
function groups(count: number, together: number, wish: Partial<VirtualRequest>): VirtualRequest[] {
  return Array.from({ length: count * together }, (_, index) => ({
    requestId: `r${index}`,
    arrivalMs: 1_000 + Math.floor(index / together) * 10_000,
    ...{ promptTokens: 192, outputTokens: 8, blocks: [], ...wish },
  }))
}

describe('prompts that share steps', () => {
  // Steps of 512 rows hold two prompts and a part of the next.
  const alone = play(groups(16, 1, {}), { fpgaSlots: 8 })
  const together = play(groups(16, 6, {}), { fpgaSlots: 8 })

  it('take longer than they cost, and together cost what their device was busy', () => {
    expect(together.records).toHaveLength(96)
    expect(together.wallMs).toBeGreaterThan(1.5 * together.sharesMs)
    expect(together.sharesMs / together.busyMs).toBeCloseTo(1, 6)
    expect(alone.wallMs / alone.sharesMs).toBeCloseTo(1, 6)
  })

  it('teach the same efficiency as prompts that run alone', () => {
    expect(together.efficiency / alone.efficiency).toBeGreaterThan(0.98)
    expect(together.efficiency / alone.efficiency).toBeLessThan(1.02)
  })
})

it('prompts beside decodes answer for the whole of their steps, which the next ones will take too', () => {
  const wish = { promptTokens: 384, outputTokens: 200 }
  const later = groups(16, 6, wish).map((request, index) => {
    return { ...request, arrivalMs: request.arrivalMs + (index % 6) * 700 }
  })
  const onGpu = { fpgas: 0, gpuSlots: 8 }
  const beside = play(later, onGpu)
  expect(beside.sharesMs / beside.wallMs).toBeCloseTo(1, 6)
  expect(beside.efficiency).toBeLessThan(0.9 * play(groups(16, 1, wish), onGpu).efficiency)
})
