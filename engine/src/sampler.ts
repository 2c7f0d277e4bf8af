/**
 * Picks the next token from one row of logits.
 *
 * P1 The random number of token i depends on (seed, i) only, so a sequence that goes on elsewhere
 *    draws the same numbers.
 * P2 Equal logits are ordered by token id: the lower id first.
 * P3 The vocabulary is never sorted as a whole unless the distribution is so flat that top_p needs it.
 */
import { InternalError } from '@kvasir/runtime/errors'

export interface SamplingParameters {
  /** 0 is greedy. */
  readonly temperature: number
  /** Probability mass that is kept, in (0, 1]. */
  readonly topP: number
  /** Tokens that are kept; 0 keeps all. */
  readonly topK: number
  readonly seed: bigint
  /** Whether `logprob` and `top` are wanted. */
  readonly logprobs: boolean
  /** Alternatives to report in `top`, most likely first. */
  readonly topLogprobs: number
}

export interface SampledToken {
  readonly id: number
  /** Natural logarithm of the model's own probability, before temperature and filters; 0 unless `logprobs`. */
  readonly logprob: number
  readonly top: readonly { readonly id: number; readonly logprob: number }[]
  /** The best two logits differ by less than NEAR_TIE: another device may well pick the other one. */
  readonly nearTie: boolean
}

/** Difference of logits under which two tokens are called tied. */
export const NEAR_TIE = 1e-4

/**
 * `logits`: one row, `[vocabulary]`. `index`: number of the token in the answer, from 0.
 * Throws InternalError when no logit is finite.
 */
export function sampleToken(logits: Float32Array, sampling: SamplingParameters, index: number): SampledToken {
  const { best, bestLogit, secondLogit } = bestTwo(logits)
  if (best < 0 || !Number.isFinite(bestLogit)) {
    throw new InternalError('The model gave no finite logit; its weights or KV blocks are damaged.')
  }
  const id = sampling.temperature > 0 ? drawToken(logits, bestLogit, sampling, index) : best
  const nearTie = bestLogit - secondLogit < NEAR_TIE
  if (!sampling.logprobs) return { id, logprob: 0, top: [], nearTie }
  const logSum = bestLogit + Math.log(expSum(logits, bestLogit))
  const top = largest(logits, sampling.topLogprobs).map((token) => ({
    id: token,
    logprob: (logits[token] ?? 0) - logSum,
  }))
  return { id, logprob: (logits[id] ?? 0) - logSum, top, nearTie }
}

function bestTwo(logits: Float32Array) {
  let best = -1
  let bestLogit = Number.NEGATIVE_INFINITY
  let secondLogit = Number.NEGATIVE_INFINITY
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] ?? 0
    if (logit > bestLogit) {
      secondLogit = bestLogit
      bestLogit = logit
      best = id
    } else if (logit > secondLogit) secondLogit = logit
  }
  return { best, bestLogit, secondLogit }
}

function expSum(logits: Float32Array, bestLogit: number): number {
  let sum = 0
  for (let id = 0; id < logits.length; id++) sum += Math.exp((logits[id] ?? 0) - bestLogit)
  return sum
}

/** Temperature, then top_k, then top_p, then the inverse of the cumulative distribution. */
function drawToken(
  logits: Float32Array,
  bestLogit: number,
  { temperature, topK, topP, seed }: SamplingParameters,
  index: number,
): number {
  const uniform = uniformOf(seed, index)
  const weight = (id: number) => Math.exp(((logits[id] ?? 0) - bestLogit) / temperature)
  if (topK === 0 && topP >= 1) {
    let total = 0
    for (let id = 0; id < logits.length; id++) total += weight(id)
    return pick(uniform * total, logits.length, (i) => i, weight)
  }
  const candidates =
    topK > 0 ? largest(logits, topK) : nucleusCandidates(logits, bestLogit, temperature, topP, weight)
  let total = 0
  if (topK > 0) for (const id of candidates) total += weight(id)
  else for (let id = 0; id < logits.length; id++) total += weight(id)
  let kept = 0
  let mass = 0
  while (kept < candidates.length && (kept === 0 || mass < topP * total)) {
    mass += weight(candidates[kept] ?? 0)
    kept++
  }
  return pick(uniform * mass, kept, (i) => candidates[i] ?? 0, weight)
}

/** The first of `count` tokens at which the running sum of weights passes `target`. */
function pick(
  target: number,
  count: number,
  tokenAt: (i: number) => number,
  weight: (id: number) => number,
): number {
  let sum = 0
  let last = tokenAt(0)
  for (let i = 0; i < count; i++) {
    const id = tokenAt(i)
    const own = weight(id)
    if (own > 0) last = id
    sum += own
    if (sum > target) return id
  }
  return last
}

/** The `count` tokens with the largest logits, largest first: a heap of `count`, no sort of the rest. */
function largest(logits: Float32Array, count: number): number[] {
  const wanted = Math.min(count, logits.length)
  if (wanted === 0) return []
  // The heap's root is the worst kept token.
  const heap: number[] = []
  const worse = (a: number, b: number) => {
    const difference = (logits[a] ?? 0) - (logits[b] ?? 0)
    return difference !== 0 ? difference < 0 : a > b
  }
  const sink = (from: number) => {
    let parent = from
    for (;;) {
      let child = parent * 2 + 1
      if (child >= heap.length) return
      if (child + 1 < heap.length && worse(heap[child + 1] ?? 0, heap[child] ?? 0)) child++
      if (!worse(heap[child] ?? 0, heap[parent] ?? 0)) return
      const swapped = heap[parent] ?? 0
      heap[parent] = heap[child] ?? 0
      heap[child] = swapped
      parent = child
    }
  }
  for (let id = 0; id < logits.length; id++) {
    if (heap.length < wanted) {
      heap.push(id)
      if (heap.length === wanted) for (let i = wanted >> 1; i >= 0; i--) sink(i)
    } else if (worse(heap[0] ?? 0, id)) {
      heap[0] = id
      sink(0)
    }
  }
  return heap.sort((a, b) => (worse(a, b) ? 1 : -1))
}

/** Tokens, most likely first, that hold at least `topP` of the mass; usually a few hundred are looked at. */
function nucleusCandidates(
  logits: Float32Array,
  bestLogit: number,
  temperature: number,
  topP: number,
  weight: (id: number) => number,
): number[] {
  let total = 0
  for (let id = 0; id < logits.length; id++) total += weight(id)
  for (let depth = 4; ; depth *= 2) {
    const floor = bestLogit - depth * temperature
    const candidates: number[] = []
    let mass = 0
    for (let id = 0; id < logits.length; id++) {
      if ((logits[id] ?? 0) < floor) continue
      candidates.push(id)
      mass += weight(id)
    }
    if (mass >= topP * total || candidates.length === logits.length || depth > 1024) {
      return candidates.sort((a, b) => (logits[b] ?? 0) - (logits[a] ?? 0) || a - b)
    }
  }
}

/** A number in [0, 1) from (seed, index): two rounds of the splitmix64 finaliser over a counter. */
function uniformOf(seed: bigint, index: number): number {
  const mixed = splitmix(splitmix(BigInt.asUintN(64, seed)) ^ BigInt(index))
  return Number(mixed >> 11n) / 2 ** 53
}

function splitmix(value: bigint): bigint {
  let z = BigInt.asUintN(64, value + 0x9e3779b97f4a7c15n)
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn)
  return z ^ (z >> 31n)
}
