/**
 * How good a ranking is, by judged relevance, as trec_eval and BEIR compute it. Pure.
 *
 * - nDCG@k: the gain of a document is its grade itself (not 2^grade − 1), discounted by log2(rank + 1), over the
 *   same sum for the best possible ranking, in which judged documents that are not in the corpus count too.
 * - recall@k: of the documents with a grade above 0 the share that is among the first k.
 *
 * A query of which no document is relevant counts with 0 in both, as in trec_eval. Figures are means over
 * the judged queries.
 */

/** Grades of the judged documents of one query, by document id. */
export type Judgements = ReadonlyMap<string, number>

/** @param ranked document ids, best first, each once */
export function ndcgAt(k: number, ranked: readonly string[], judgements: Judgements): number {
  const ideal = discounted([...judgements.values()].sort((a, b) => b - a).slice(0, k))
  if (ideal === 0) return 0
  return discounted(ranked.slice(0, k).map((id) => judgements.get(id) ?? 0)) / ideal
}

/** @param ranked document ids, best first, each once */
export function recallAt(k: number, ranked: readonly string[], judgements: Judgements): number {
  const relevant = [...judgements].filter(([, grade]) => grade > 0).map(([id]) => id)
  if (relevant.length === 0) return 0
  const found = new Set(ranked.slice(0, k))
  return relevant.filter((id) => found.has(id)).length / relevant.length
}

/** NaN of none. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** A grade below 0 is worth nothing, like an unjudged document. */
function discounted(grades: readonly number[]): number {
  return grades.reduce((sum, grade, index) => sum + Math.max(0, grade) / Math.log2(index + 2), 0)
}
