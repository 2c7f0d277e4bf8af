/**
 * The kernels over KV pages written out plainly, in f64: what drivers' kernels are compared with, and what
 * the fake driver of the agents' tests runs. Blocks are given as their bytes are on the wire,
 * `[K|V][kv head][16 tokens][head dim]`; bounds as `[kv head][min|max][head dim]`.
 */
import { BLOCK_TOKENS, type PartialAttention } from '../device-driver.js'

export interface HeadShape {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

/** Bounds of one block. */
export function referenceBounds({ kvHeads, headDim }: HeadShape, block: Float32Array): Float32Array {
  const bounds = new Float32Array(kvHeads * 2 * headDim)
  for (let head = 0; head < kvHeads; head++) {
    for (let d = 0; d < headDim; d++) {
      const keys = Array.from(
        { length: BLOCK_TOKENS },
        (_, token) => block[(head * BLOCK_TOKENS + token) * headDim + d] ?? 0,
      )
      bounds[head * 2 * headDim + d] = Math.min(...keys)
      bounds[(head * 2 + 1) * headDim + d] = Math.max(...keys)
    }
  }
  return bounds
}

/** `[kv heads, pages]`. */
export function referenceScores(
  { heads, kvHeads, headDim }: HeadShape,
  q: Float32Array,
  bounds: readonly Float32Array[],
): Float32Array {
  const group = heads / kvHeads
  const scores = new Float32Array(kvHeads * bounds.length)
  for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
    for (const [page, own] of bounds.entries()) {
      let best = Number.NEGATIVE_INFINITY
      for (let head = kvHead * group; head < (kvHead + 1) * group; head++) {
        let score = 0
        for (let d = 0; d < headDim; d++) {
          const value = q[head * headDim + d] ?? 0
          const low = value * (own[kvHead * 2 * headDim + d] ?? 0)
          const high = value * (own[(kvHead * 2 + 1) * headDim + d] ?? 0)
          score += Math.max(low, high)
        }
        best = Math.max(best, score)
      }
      scores[kvHead * bounds.length + page] = best
    }
  }
  return scores
}

/** Of one row the columns of the k largest, ascending; of equal values the smaller column. */
export function referenceTopK(row: ArrayLike<number>, k: number): number[] {
  return Array.from({ length: row.length }, (_, column) => column)
    .sort((a, b) => (row[b] ?? 0) - (row[a] ?? 0) || a - b)
    .slice(0, k)
    .sort((a, b) => a - b)
}

/** `keys(head)`: the blocks that a KV head attends to; `tokens(head)`: how many of their tokens. */
export function referencePartial(
  { heads, kvHeads, headDim }: HeadShape,
  q: Float32Array,
  pages: (kvHead: number) => readonly Float32Array[],
  tokens: (kvHead: number) => number = (kvHead) => pages(kvHead).length * BLOCK_TOKENS,
): PartialAttention {
  const output = new Float32Array(heads * headDim)
  const max = new Float32Array(heads).fill(Number.NEGATIVE_INFINITY)
  const sum = new Float32Array(heads)
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head / (heads / kvHeads))
    const blocks = pages(kvHead)
    const at = (token: number, kind: 0 | 1, d: number) => {
      const row = (kind * kvHeads + kvHead) * BLOCK_TOKENS + (token % BLOCK_TOKENS)
      return blocks[Math.floor(token / BLOCK_TOKENS)]?.[row * headDim + d] ?? 0
    }
    const scores = Array.from({ length: tokens(kvHead) }, (_, token) => {
      let score = 0
      for (let d = 0; d < headDim; d++) score += (q[head * headDim + d] ?? 0) * at(token, 0, d)
      return score / Math.sqrt(headDim)
    })
    if (scores.length === 0) continue
    const best = scores.reduce((a, b) => Math.max(a, b))
    const powers = scores.map((score) => Math.exp(score - best))
    const total = powers.reduce((a, b) => a + b, 0)
    max[head] = best
    sum[head] = total
    for (let d = 0; d < headDim; d++) {
      let value = 0
      for (const [token, power] of powers.entries()) value += power * at(token, 1, d)
      output[head * headDim + d] = value / total
    }
  }
  return { output, max, sum }
}
