/**
 * A hint for a word that nobody knows: the known ones that it begins, else the one that is nearest.
 * At most half of the word may differ: a hint that is no guess at all is worse than the list of what there is.
 */
import { distance } from 'fastest-levenshtein'

const either = new Intl.ListFormat('en-GB', { type: 'disjunction' })

const namedMax = 4
const apartMax = 3

/** `; did you mean <known>` where known words are close, else ''. */
export function didYouMean(word: string, known: readonly string[]): string {
  const near = closeTo(word.toLowerCase(), known)
  return near.length === 0 ? '' : `; did you mean ${either.format(near)}`
}

function closeTo(word: string, known: readonly string[]): readonly string[] {
  const begun = known.filter((each) => word.length > 1 && each.toLowerCase().startsWith(word))
  if (begun.length > 0 && begun.length <= namedMax) return begun
  const ranked = known
    .map((each) => ({ each, apart: apart(word, each.toLowerCase()) }))
    .sort((a, b) => a.apart - b.apart)
  const [best] = ranked
  return best !== undefined && best.apart <= Math.min(apartMax, word.length / 2) ? [best.each] : []
}

/** A wrong letter in the beginning of a long name is nearer to that name than to a short one. */
function apart(word: string, known: string): number {
  return Math.min(distance(word, known), distance(word, known.slice(0, word.length)) + 0.5)
}
