import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type SamplingParameters, sampleToken } from './sampler.js'

const greedy: SamplingParameters = {
  temperature: 0,
  topP: 1,
  topK: 0,
  seed: 7n,
  logprobs: false,
  topLogprobs: 0,
}
const row = (...values: number[]) => Float32Array.from(values)

describe('greedy', () => {
  it('takes the largest logit, of equal ones the lower id, and tells near ties', () => {
    expect(sampleToken(row(1, 3, 2), greedy, 0)).toEqual({ id: 1, logprob: 0, top: [], nearTie: false })
    expect(sampleToken(row(3, 1, 3), greedy, 0)).toMatchObject({ id: 0, nearTie: true })
    expect(sampleToken(row(3, 3.00005, 0), greedy, 0)).toMatchObject({ id: 1, nearTie: true })
  })

  it('refuses logits that are no numbers', () => {
    expect(() => sampleToken(row(Number.NaN, Number.NaN), greedy, 0)).toThrow('no finite logit')
    expect(() => sampleToken(row(Number.POSITIVE_INFINITY, 1), greedy, 0)).toThrow('no finite logit')
  })
})

describe('log-probabilities', () => {
  it('are those of the model, most likely first', () => {
    const logits = row(0, Math.log(2), Math.log(5))
    const token = sampleToken(logits, { ...greedy, temperature: 0.3, logprobs: true, topLogprobs: 2 }, 3)
    expect(token.top.map((entry) => entry.id)).toEqual([2, 1])
    expect(token.top.map((entry) => Math.exp(entry.logprob))).toEqual([
      expect.closeTo(5 / 8, 6),
      expect.closeTo(2 / 8, 6),
    ])
    expect(Math.exp(token.logprob)).toBeCloseTo(([1, 2, 5][token.id] ?? 0) / 8, 6)
  })
})

describe('drawing', () => {
  const logits = Float32Array.from({ length: 500 }, (_, i) => Math.sin(i * 12.9) * 4)

  it('depends on seed and index only', () => {
    const sampling = { ...greedy, temperature: 1 }
    const draw = (seed: bigint) =>
      Array.from({ length: 20 }, (_, i) => sampleToken(logits, { ...sampling, seed }, i).id)
    expect(draw(1n)).toEqual(draw(1n))
    expect(draw(1n)).not.toEqual(draw(2n))
    const later = sampleToken(logits, { ...sampling, seed: 1n }, 13).id
    expect(later).toBe(draw(1n)[13])
    expect(new Set(draw(1n)).size).toBeGreaterThan(5)
  })

  it('follows the distribution', () => {
    const counts = [0, 0, 0]
    for (let i = 0; i < 4000; i++) {
      const { id } = sampleToken(row(0, Math.log(2), Math.log(5)), { ...greedy, temperature: 1 }, i)
      counts[id] = (counts[id] ?? 0) + 1
    }
    expect(counts.map((n) => n / 4000)).toEqual([1, 2, 5].map((w) => expect.closeTo(w / 8, 1)))
  })

  it('never leaves the tokens that top_k and top_p allow', () => {
    const values = fc.array(fc.integer({ min: -40, max: 40 }), { minLength: 1, maxLength: 80 })
    const options = fc.record({
      temperature: fc.constantFrom(0.1, 0.7, 1, 3),
      topP: fc.constantFrom(0.05, 0.5, 0.9, 0.999, 1),
      topK: fc.constantFrom(0, 1, 3, 50),
      seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    })
    fc.assert(
      fc.property(values, options, fc.nat(1000), (tenths, chosen, index) => {
        const some = Float32Array.from(tenths, (value) => value / 10)
        const weights = [...some.entries()]
          .map(([id, logit]) => ({ id, weight: Math.exp(logit / chosen.temperature) }))
          .sort((a, b) => b.weight - a.weight || a.id - b.id)
          .slice(0, chosen.topK === 0 ? undefined : chosen.topK)
        const total = weights.reduce((sum, { weight }) => sum + weight, 0)
        let mass = 0
        const allowed = weights.filter(({ weight }, i) => {
          const kept = i === 0 || mass < chosen.topP * total * (1 + 1e-9)
          mass += weight
          return kept
        })
        const { id } = sampleToken(some, { ...greedy, ...chosen }, index)
        expect(allowed.map((token) => token.id)).toContain(id)
      }),
      { numRuns: 500 },
    )
  })

  it('is greedy with top_k 1 and with a tiny top_p', () => {
    const best = sampleToken(logits, greedy, 0).id
    for (let i = 0; i < 20; i++) {
      expect(sampleToken(logits, { ...greedy, temperature: 2, topK: 1 }, i).id).toBe(best)
      expect(sampleToken(logits, { ...greedy, temperature: 2, topP: 1e-6 }, i).id).toBe(best)
    }
  })
})
