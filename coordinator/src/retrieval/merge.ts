/**
 * The best documents of a whole corpus from the best of each of its shards.
 *
 * Invariant: a shard gives its k best, so none of the whole corpus' k best is missing, and the result
 * does not depend on how the corpus was cut: by score, of equal scores the smaller number first.
 */
import type { ScoredDocument } from '@kvasir/proto/kvasir/memory/v1/corpus'

export function mergeBest(
  shards: readonly (readonly ScoredDocument[])[],
  k: number,
): readonly ScoredDocument[] {
  return shards
    .flat()
    .sort((a, b) => b.score - a.score || a.document - b.document)
    .slice(0, k)
}
