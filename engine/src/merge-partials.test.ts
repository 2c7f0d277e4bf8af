import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { PartialAttention } from './device-driver.js'
import { emptyPartial, mergePartials, shareOfMerged } from './merge-partials.js'

const HEADS = 2
const DIM = 3

/** Attention over tokens that are given by score and value, in f64. */
function plain(tokens: readonly { readonly score: number; readonly value: number }[]): PartialAttention {
  if (tokens.length === 0) return emptyPartial(HEADS, DIM)
  const max = Math.fround(Math.max(...tokens.map(({ score }) => score)))
  const powers = tokens.map(({ score }) => Math.exp(score - max))
  const sum = powers.reduce((a, b) => a + b, 0)
  const mean = tokens.reduce((total, { value }, i) => total + (value * (powers[i] ?? 0)) / sum, 0)
  return {
    output: new Float32Array(HEADS * DIM).fill(mean),
    max: new Float32Array(HEADS).fill(max),
    sum: new Float32Array(HEADS).fill(sum),
  }
}

/** As one number a head can be compared by, whatever maximum it is told with. */
const logSum = ({ max, sum }: PartialAttention) => (max[0] ?? 0) + Math.log(sum[0] ?? 0)

// Scores of one model lie within some hundreds of each other.
const token = fc.record({
  score: fc.float({ min: -300, max: 300, noNaN: true }),
  value: fc.float({ min: -4, max: 4, noNaN: true }),
})
const tokens = fc.array(token, { maxLength: 12 })

function expectSame(got: PartialAttention, expected: PartialAttention): void {
  for (const [i, value] of expected.output.entries()) expect(got.output[i]).toBeCloseTo(value, 4)
  if ((expected.sum[0] ?? 0) === 0) expect(got).toEqual(expected)
  else expect(logSum(got)).toBeCloseTo(logSum(expected), 3)
}

describe('merging partial attention', () => {
  it('gives attention over all tokens, whatever the parts', () => {
    fc.assert(
      fc.property(fc.array(tokens, { maxLength: 5 }), (parts) => {
        expectSame(mergePartials(parts.map(plain), HEADS, DIM), plain(parts.flat()))
      }),
    )
  })

  it('is associative and commutative', () => {
    fc.assert(
      fc.property(tokens, tokens, tokens, (a, b, c) => {
        const [x, y, z] = [plain(a), plain(b), plain(c)]
        const merge = (...parts: PartialAttention[]) => mergePartials(parts, HEADS, DIM)
        expectSame(merge(merge(x, y), z), merge(x, merge(y, z)))
        expectSame(merge(z, y, x), merge(x, y, z))
      }),
    )
  })

  it('leaves a part as it is, to the bit, beside empty ones', () => {
    fc.assert(
      fc.property(fc.array(token, { minLength: 1, maxLength: 12 }), (own) => {
        const empty = emptyPartial(HEADS, DIM)
        expect(mergePartials([empty, plain(own), empty], HEADS, DIM)).toEqual(plain(own))
      }),
    )
  })

  it('gives an empty part, and no NaN, for empty parts and for none', () => {
    const empty = emptyPartial(HEADS, DIM)
    expect(mergePartials([empty, empty], HEADS, DIM)).toEqual(empty)
    expect(mergePartials([], HEADS, DIM)).toEqual(empty)
    expect(shareOfMerged(empty, empty, 0)).toBe(0)
  })

  it('does not overflow where scores are far apart', () => {
    const merged = mergePartials(
      [plain([{ score: 2 ** 127, value: 1 }]), plain([{ score: -(2 ** 127), value: 5 }])],
      HEADS,
      DIM,
    )
    expect([...merged.output]).toEqual(new Array(HEADS * DIM).fill(1))
    expect([...merged.sum]).toEqual([1, 1])
  })

  it('knows what share of the whole a part has', () => {
    const parts = [
      plain([{ score: 1, value: 0 }]),
      plain([
        { score: 1, value: 0 },
        { score: 1, value: 0 },
      ]),
    ] as const
    const whole = mergePartials(parts, HEADS, DIM)
    const weights = parts.map((part) => shareOfMerged(part, whole, 0) * (part.sum[0] ?? 0))
    expect(weights[0]).toBeCloseTo(1 / 3, 6)
    expect(weights[1]).toBeCloseTo(2 / 3, 6)
  })
})
