import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type AttentionAsk, mayOffload } from './attention-choice.js'
import { chooseAttention } from './attention-full.js'
import { pagesOf, pagesWithin } from './attention-plan.js'
import { ATTENTION_KERNELS, type AttentionSite, layerWork } from './attention-stages.js'
import type { AttentionWish } from './attention-wish.js'
import { CostModel } from './cost-model.js'
import type { DeviceFacts, ModelFacts } from './facts.js'
import { StageCosts } from './stage-costs.js'
import { testDevice } from './testing/devices.js'

/** About Llama-3.1-8B: 32 layers, 8 KV heads of 128 values. */
const small = testDevice({ deviceId: 'any' }).models[0]
if (!small) throw new Error('A test device has a model.')
const model: ModelFacts = {
  ...small,
  contextTokensMax: 131_072,
  kvBytesPerToken: 262_144,
  poolBytesPerToken: 262_144,
  layers: 32,
  parameters: 8e9,
  weightBytes: 16e9,
}
const device = (deviceId: string, bytesPerSecond: number, bytesPerSecondLink = 6e9): DeviceFacts => ({
  ...testDevice({ deviceId, bytesPerSecond, opsPerSecond: 10e12 }),
  link: { bytesPerSecond: bytesPerSecondLink, latencyMs: 0.005 },
})
const gpu = device('gpu-0', 1_935e9)
const fpga = device('fpga-0', 460e9)

const site = (decode: DeviceFacts, more: Partial<AttentionSite> = {}): AttentionSite => ({
  model,
  prefill: gpu,
  decode,
  steps: 256,
  costs: new CostModel(),
  stageCosts: new StageCosts(),
  ...more,
})
const ask = (
  contextTokens: number,
  wish?: AttentionWish,
  more: Partial<AttentionAsk> = {},
): AttentionAsk => ({
  wish,
  isSparseDefault: true,
  choosesPages: true,
  settled: null,
  isPlaceBinding: true,
  contextTokens,
  batch: 1,
  ...more,
})
const bounds = (place: AttentionWish['place'], tokens = 512): AttentionWish => ({
  method: 'page-bounds',
  budget: { tokens },
  place,
})

describe('a request that asks for nothing', () => {
  test('is dense and local while its context fits the budget', () => {
    const plan = chooseAttention(ask(3_840), site(gpu), [fpga])
    expect(plan).toMatchObject({ method: 'dense', place: 'local', attend: null, asked: false, stages: [] })
    expect(plan?.reason).toBe('Attention is dense, as for all of up to 4,096 tokens.')
    expect(mayOffload(ask(3_840), 256)).toBe(false)
  })

  test('goes by page bounds above it, where that is predicted to be worth it', () => {
    const plan = chooseAttention(ask(32_768), site(fpga), [])
    expect(plan).toMatchObject({ method: 'page-bounds', budget: { tokens: 4_096 }, place: 'local' })
    expect(plan).toMatchObject({ promptPages: 2_049, budgetPages: 256 })
    expect(plan?.reason).toMatch(
      /^Attention is by page bounds with a budget of 4,096 tokens: .* a step is predicted/,
    )
    expect(plan?.stages.map(({ stage }) => stage)).toEqual(['prepare', 'relevancy', 'retrieval', 'apply'])
    // One above the budget saves nothing.
    expect(chooseAttention(ask(3_841), site(fpga), [])?.method).toBe('dense')
  })

  test('keeps the method that it began with', () => {
    const settled = { method: 'dense', budget: null } as const
    const plan = chooseAttention(ask(32_768, undefined, { settled }), site(fpga), [])
    expect(plan).toMatchObject({ method: 'dense', reason: 'Attention is dense, as when the request began.' })
  })

  test('stays dense on a device that knows no other', () => {
    const plan = chooseAttention(ask(32_768, undefined, { choosesPages: false }), site(gpu), [])
    expect(plan).toMatchObject({ method: 'dense', place: 'local' })
    expect(plan?.reason).toBe('Attention is dense, the only one that gpu-0 knows.')
  })

  test('stays dense where the coordinator is set so', () => {
    const dense = ask(32_768, undefined, { isSparseDefault: false })
    expect(chooseAttention(dense, site(gpu), [fpga])).toMatchObject({ method: 'dense', place: 'local' })
  })
})

describe('the place', () => {
  test('is another device only where that is predicted to be worth it', () => {
    const slow = device('gpu-1', 50e9)
    const light = { prefill: slow, model: { ...model, weightBytes: 1e8 } }
    const away = chooseAttention(ask(65_536, bounds('auto')), site(slow, light), [fpga])
    expect(away).toMatchObject({ attend: { deviceId: 'fpga-0' }, attendPages: 4_096 })
    expect(away?.reason).toMatch(/fpga-0 (attends to the prompt|chooses the pages): a step is predicted/)
    const home = chooseAttention(ask(65_536, bounds('auto')), site(gpu), [fpga])
    expect(home).toMatchObject({ place: 'local', attend: null, attendPages: 0 })
    expect(home?.reason).toMatch(/gpu-0 attends: a step is predicted to take .* with fpga-0\.$/)
  })

  test('is the one asked for, on the faster of two devices', () => {
    const faster = device('fpga-1', 900e9)
    for (const place of ['partial', 'indices'] as const) {
      const plan = chooseAttention(ask(8_192, bounds(place)), site(gpu), [fpga, faster])
      expect(plan).toMatchObject({ place, attend: { deviceId: 'fpga-1' }, asked: true })
      expect(plan?.stages[1]?.alternative?.devices).toEqual(['fpga-0'])
    }
  })

  test('of dense attention may be asked for too', () => {
    const dense = { method: 'dense', budget: null } as const
    for (const place of ['partial', 'indices'] as const) {
      const plan = chooseAttention(ask(8_192, { ...dense, place }), site(gpu), [fpga])
      expect(plan).toMatchObject({ ...dense, place, attend: { deviceId: 'fpga-0' }, budgetPages: 513 })
    }
  })

  test('is local when another cannot be had any more, and nothing when it must be', () => {
    const wish = bounds('partial')
    expect(chooseAttention(ask(8_192, wish), site(gpu), [])).toBeUndefined()
    const later = chooseAttention(ask(8_192, wish, { isPlaceBinding: false }), site(gpu), [])
    expect(later).toMatchObject({ place: 'local', method: 'page-bounds' })
    expect(later?.reason).toMatch(/since no other device is left that could\.$/)
  })

  test('is local where the prompt fills no page', () => {
    expect(chooseAttention(ask(15, bounds('partial')), site(gpu), [fpga])?.place).toBe('local')
  })

  test('follows what was measured of the stages', () => {
    const stageCosts = new StageCosts()
    const wish = bounds('partial')
    const other = device('fpga-1', 460e9)
    const choose = () => chooseAttention(ask(8_192, wish), site(gpu, { stageCosts }), [fpga, other])?.attend
    expect(choose()?.deviceId).toBe('fpga-0')
    const work = layerWork(model, 513, 32)
    stageCosts.observe(fpga, ATTENTION_KERNELS.apply, work.apply, 50)
    expect(choose()?.deviceId).toBe('fpga-1')
  })

  test('brings the pages once, and asks for each layer and step', () => {
    const partial = chooseAttention(ask(8_192, bounds('partial')), site(gpu), [fpga])
    const indices = chooseAttention(ask(8_192, bounds('indices')), site(gpu), [fpga])
    const kvBytes = 512 * 16 * model.kvBytesPerToken
    const boundBytes = 512 * model.kvBytesPerToken
    const queryBytes = model.kvBytesPerToken / 2
    expect(partial?.stages[1]?.transferBytes).toBe(boundBytes / 256 + queryBytes)
    expect(partial?.stages[3]?.transferBytes).toBe(kvBytes / 256 + queryBytes)
    expect(indices?.stages[1]?.transferBytes).toBe(boundBytes / 256 + queryBytes)
    expect(indices?.stages[3]?.transferBytes).toBeLessThan(kvBytes / 256)
  })
})

test('the pages of a budget are those that the devices take', () => {
  fc.assert(
    fc.property(fc.nat(10_000), fc.integer({ min: 1, max: 10_000 }), (tokens, budget) => {
      const pages = pagesOf(tokens)
      expect(pages).toBe(Math.floor(tokens / 16) + 1)
      expect(pagesWithin({ tokens: budget }, pages)).toBe(Math.min(pages, Math.ceil(budget / 16)))
      expect(pagesWithin({ share: 1 }, pages)).toBe(pages)
      expect(pagesWithin({ share: 0.0001 }, pages)).toBeGreaterThanOrEqual(1)
    }),
  )
})

test('any plan has a sentence for a reason, a finite time, and a device to attend just where one is needed', () => {
  const wish: fc.Arbitrary<AttentionWish | undefined> = fc
    .option(
      fc.record({
        method: fc.constantFrom('auto', 'dense', 'page-bounds', 'random', 'recent'),
        budget: fc.integer({ min: 1, max: 40_000 }),
        place: fc.constantFrom('auto', 'local', 'partial', 'indices'),
      }),
      { nil: undefined },
    )
    .map((any) => {
      if (!any) return undefined
      const isBudgeted = any.method !== 'auto' && any.method !== 'dense'
      return { ...any, budget: isBudgeted ? { tokens: any.budget } : null } as const
    })
  fc.assert(
    fc.property(wish, fc.integer({ min: 1, max: 100_000 }), fc.nat(2), (any, contextTokens, count) => {
      const attendants = [fpga, device('fpga-1', 100e9)].slice(0, count)
      const asked = ask(contextTokens, any, { isPlaceBinding: false })
      const plan = chooseAttention(asked, site(gpu), attendants)
      expect(plan?.reason).toMatch(/^[A-Z][^.]*(\.\d[^.]*)*\.$/)
      expect(plan && Number.isFinite(plan.stepMs) && plan.stepMs > 0).toBe(true)
      expect(plan?.attend === null).toBe(plan?.place === 'local')
      expect(plan?.stages.length === 0).toBe(plan?.method === 'dense' && plan.place === 'local')
    }),
  )
})
