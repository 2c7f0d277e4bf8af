/**
 * Joins attention over parts of a sequence's tokens to attention over all of them (DistAttention of
 * Infinite-LLM): with m the largest of the parts' maxima, sum = Σ sumᵢ·e^(maxᵢ − m) and
 * output = Σ sumᵢ·e^(maxᵢ − m)·outputᵢ ÷ sum.
 *
 * M1 Exact but for rounding, whatever the partition and the order of the parts.
 * M2 A part without tokens (sum 0, maximum −∞) changes nothing; parts that are all empty merge to an
 *    empty one, never to NaN.
 */
import type { PartialAttention } from './device-driver.js'

/** Attention over no token at all. */
export function emptyPartial(heads: number, headDim: number): PartialAttention {
  return {
    output: new Float32Array(heads * headDim),
    max: new Float32Array(heads).fill(Number.NEGATIVE_INFINITY),
    sum: new Float32Array(heads),
  }
}

/** `parts`: of the same query; of `heads` query heads of `headDim`. Sums are kept in f64 until the end. */
export function mergePartials(
  parts: readonly PartialAttention[],
  heads: number,
  headDim: number,
): PartialAttention {
  const merged = emptyPartial(heads, headDim)
  for (let head = 0; head < heads; head++) {
    const max = Math.max(
      ...parts.filter(({ sum }) => (sum[head] ?? 0) > 0).map((part) => part.max[head] ?? 0),
    )
    if (max === Number.NEGATIVE_INFINITY) continue
    const weights = parts.map(({ max: own, sum }) =>
      (sum[head] ?? 0) > 0 ? (sum[head] ?? 0) * Math.exp((own[head] ?? 0) - max) : 0,
    )
    const total = weights.reduce((all, weight) => all + weight, 0)
    merged.max[head] = max
    merged.sum[head] = total
    for (let at = head * headDim; at < (head + 1) * headDim; at++) {
      let value = 0
      for (const [i, weight] of weights.entries()) {
        if (weight > 0) value += weight * (parts[i]?.output[at] ?? 0)
      }
      merged.output[at] = value / total
    }
  }
  return merged
}

/** What a part's weights must be multiplied with to be weights of the merged attention: e^(max − merged max) ÷ merged sum. */
export function shareOfMerged(part: PartialAttention, merged: PartialAttention, head: number): number {
  const sum = merged.sum[head] ?? 0
  if (sum === 0 || (part.sum[head] ?? 0) === 0) return 0
  return Math.exp((part.max[head] ?? 0) - (merged.max[head] ?? 0)) / sum
}
