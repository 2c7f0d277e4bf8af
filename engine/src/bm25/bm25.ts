/**
 * BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009) with k1 = 1.2 and b = 0.75, in f64:
 *
 *   score(d) = Σ_t weight(t) · tf·(k1 + 1) ÷ (tf + k1·(1 − b + b·length(d) ÷ mean length))
 *   weight(t) = count of t in the query · ln(1 + (N − df + 0.5) ÷ (df + 0.5))
 *
 * Weights and mean length come from outside, since they belong to the whole corpus.
 *
 * Invariant: a document's terms are added up in ascending order of their numbers, so its score is the
 * same to the last bit whichever shard it is in and whichever device computes it.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { PostingsShard } from './shard-format.js'

const K1 = 1.2
const B = 0.75

/** What one search takes. */
export const BM25_LIMITS = { terms: 1_024, k: 1_000 } as const

/** Stands for a document without any of the terms. */
export const UNSCORED = -1

/** Postings between two pauses. */
const PAUSE_POSTINGS = 1 << 16

export interface Bm25Query {
  /** Term numbers, ascending. */
  readonly terms: Uint32Array
  /** Of each term, above 0. */
  readonly weights: Float64Array
  /** Words of a mean document of the corpus. */
  readonly meanLength: number
  /** Documents wanted. */
  readonly k: number
}

/** @param documents of the corpus; @param containing those with the term */
export function inverseDocumentFrequency(documents: number, containing: number): number {
  return Math.log(1 + (documents - containing + 0.5) / (containing + 0.5))
}

/** Throws InvalidInputError for a query that no search takes. */
export function checkQuery({ terms, weights, meanLength, k }: Bm25Query): void {
  if (!Number.isInteger(k) || k < 1 || k > BM25_LIMITS.k) {
    throw new InvalidInputError(`A search gives 1 to ${BM25_LIMITS.k} documents; k is ${k}.`, { param: 'k' })
  }
  if (terms.length > BM25_LIMITS.terms) {
    throw new InvalidInputError(
      `A search takes ${BM25_LIMITS.terms} terms; the query has ${terms.length}: shorten it.`,
      { param: 'terms' },
    )
  }
  if (weights.length !== terms.length) {
    throw new InvalidInputError(`A search has ${terms.length} terms but ${weights.length} weights.`, {
      param: 'weights',
    })
  }
  for (let index = 1; index < terms.length; index += 1) {
    if ((terms[index] ?? 0) <= (terms[index - 1] ?? 0)) {
      throw new InvalidInputError('The terms of a search must ascend, each once.', { param: 'terms' })
    }
  }
  if (!weights.every((weight) => weight > 0 && Number.isFinite(weight))) {
    throw new InvalidInputError('The weight of a term must be above 0.', { param: 'weights' })
  }
  if (terms.length > 0 && !(meanLength > 0 && Number.isFinite(meanLength))) {
    throw new InvalidInputError('The mean length of a document must be above 0.', { param: 'mean_length' })
  }
}

/**
 * The score of each of the shard's documents `begin` to `end`, counted within the shard, UNSCORED for one
 * without any term. A generator that pauses now and then, so that its caller can let others run.
 */
export function* scoreDocuments(
  shard: PostingsShard,
  { terms, weights, meanLength }: Bm25Query,
  begin = 0,
  end = shard.documentCount,
): Generator<void, Float64Array> {
  const scores = new Float64Array(end - begin).fill(UNSCORED)
  const { lengths } = shard
  let walked = 0
  for (let index = 0; index < terms.length; index += 1) {
    const place = shard.placeOf(terms[index] ?? 0)
    if (place < 0) continue
    const weight = weights[index] ?? 0
    const cursor = shard.cursor(place)
    while (cursor.next()) {
      walked += 1
      const { document, count } = cursor
      if (document < begin) continue
      if (document >= end) break
      const length = lengths[document] ?? 0
      const part = (weight * count * (K1 + 1)) / (count + K1 * (1 - B + (B * length) / meanLength))
      const before = scores[document - begin] ?? UNSCORED
      scores[document - begin] = before === UNSCORED ? part : before + part
    }
    if (walked >= PAUSE_POSTINGS) {
      walked = 0
      yield
    }
  }
  return scores
}
