/**
 * SentencePiece's merging by score as a list of merges by rank, which is how tokenizer.json has it.
 *
 * SentencePiece joins the two neighbours whose union has the best score, the leftmost of equals. Ranks in the
 * order of scores do the same where scores differ. One union can be cut in several places; two of its cuts
 * compete only where they overlap in a text, the right part of one being the left part of the other, and
 * then the first has to go first.
 */
import type { GgufToken } from './special-tokens.js'

type Merge = readonly [string, string]

/** Best first. */
export function sentencePieceMerges(tokens: readonly GgufToken[]): Merge[] {
  const pieces = tokens.filter(({ kind }) => kind === 'normal')
  const known = new Set(pieces.map(({ text }) => text))
  return [...pieces]
    .sort((a, b) => b.score - a.score || a.id - b.id)
    .flatMap(({ text }) => cutsOf(text, known))
}

function cutsOf(text: string, known: ReadonlySet<string>): Merge[] {
  const cuts: Merge[] = []
  const characters = [...text]
  let left = ''
  for (const character of characters.slice(0, -1)) {
    left += character
    const right = text.slice(left.length)
    if (known.has(left) && known.has(right)) cuts.push([left, right])
  }
  // Longer left parts first is right for all but a cut whose right part is another's left one.
  cuts.reverse()
  for (let i = 0; i < cuts.length; i++) {
    const later = cuts.findIndex(([, right], j) => j > i && right === cuts[i]?.[0])
    const [cut] = later < 0 ? [] : cuts.splice(later, 1)
    if (cut) cuts.splice(i, 0, cut)
  }
  return cuts
}
