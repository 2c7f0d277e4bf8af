/**
 * From text to the words that retrieval counts: lowercase Unicode words, no stemming, no stop list.
 *
 * A word is a letter or digit of any script with the letters, digits and combining marks after it, in
 * Unicode's compatibility form NFKC and in lower case. So "é" is one letter however it was typed, and
 * full-width "Ａ" is "a". Scripts that put no spaces between words (Chinese, Japanese, Thai) are not
 * segmented: a run of them is one word. A run beyond 128 code points, which no language has, is cut
 * into several words, so that no text makes terms of any length.
 *
 * Invariant: the same text gives the same words, whatever the locale; canonically equivalent texts do too.
 */

const WORD = /[\p{L}\p{N}][\p{L}\p{M}\p{N}]{0,127}/gu

/** Changes whenever the same text could give other words: a new rule here, or other Unicode tables in Node. */
export const ANALYZER = `words-1/unicode-${process.versions.unicode}`

export interface WordCounts {
  /** Words with how often each occurs, in order of their first occurrence. */
  readonly counts: ReadonlyMap<string, number>
  /** All words. */
  readonly length: number
}

/** Lone surrogates and other code points without a category are no words, and break none. */
export function countWords(text: string): WordCounts {
  const counts = new Map<string, number>()
  const words = text.normalize('NFKC').toLowerCase().match(WORD) ?? []
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1)
  return { counts, length: words.length }
}

/** What a document is found by: its title and its text. */
export function searchedText(title: string, text: string): string {
  return `${title}\n${text}`
}
