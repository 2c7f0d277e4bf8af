/** What is learned from steps, and the chunk that follows from it. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { StepPart } from './events.js'
import { SHARED_STEP_STRETCH, StepCosts } from './step-costs.js'

const LIMITS = { rowsMax: 512, chunkTokens: 256, sharedChunkTokens: 64 }
const decode: StepPart = {
  sequence: 1,
  role: 'decode',
  blocks: [0],
  firstPage: 0,
  start: 9,
  count: 1,
  wantLogits: true,
}
const prefill = (count: number): StepPart => ({
  sequence: 2,
  role: 'prefill',
  blocks: [1],
  firstPage: 0,
  start: 0,
  count,
  wantLogits: false,
})

describe('StepCosts', () => {
  it('allows one block while nothing is known', () => {
    expect(new StepCosts(16).sharedChunkTokens(LIMITS)).toBe(16)
  })

  it('finds the longest chunk that keeps a shared step short, on any device', () => {
    const decodeStepUs = fc.integer({ min: 500, max: 500_000 })
    const rowUs = fc.integer({ min: 0, max: 50_000 })
    fc.assert(
      fc.property(decodeStepUs, rowUs, (decodeStepUs, rowUs) => {
        const costs = new StepCosts(16)
        const stepUs = (rows: number) => decodeStepUs + rows * rowUs
        costs.ran([decode], stepUs(0))
        for (let step = 0; step < 40; step += 1) {
          const rows = costs.sharedChunkTokens(LIMITS)
          costs.ran([decode, prefill(rows)], stepUs(rows))
        }
        const rows = costs.sharedChunkTokens(LIMITS)
        const short = (rows: number) => stepUs(rows) <= SHARED_STEP_STRETCH * decodeStepUs + 1
        expect(rows % 16).toBe(0)
        expect(rows === 16 || short(rows)).toBe(true)
        expect(rows === LIMITS.sharedChunkTokens || !short(rows + 17)).toBe(true)
      }),
    )
  })

  it('lets a prompt run whole beside decodes where it is told to', () => {
    const costs = new StepCosts(16)
    costs.ran([decode], 10_000)
    costs.ran([decode, prefill(64)], 10_000 + 64 * 5_000)
    expect(costs.sharedChunkTokens(LIMITS)).toBe(16)
    const whole = { ...LIMITS, sharedStepStretch: Number.POSITIVE_INFINITY }
    expect(costs.sharedChunkTokens(whole)).toBe(LIMITS.sharedChunkTokens)
  })

  it('follows a device that becomes slower', () => {
    const costs = new StepCosts(16)
    costs.ran([decode], 10_000)
    costs.ran([decode, prefill(64)], 16_400)
    expect(costs.sharedChunkTokens(LIMITS)).toBe(64)
    for (let step = 0; step < 20; step += 1) costs.ran([decode, prefill(16)], 10_000 + 16 * 1_000)
    expect(costs.sharedChunkTokens(LIMITS)).toBe(16)
  })
})
