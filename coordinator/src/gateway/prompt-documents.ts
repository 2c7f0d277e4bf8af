/**
 * Documents as the text that goes before a question, and as many of them as the context has room for.
 *
 *   Documents:
 *
 *   [1] Title of the first
 *   Its text …
 *
 *   [2] …
 *
 *   <the question, unchanged>
 *
 * Invariants: documents are whole, in order, best first, but for the last one, which may be cut at a word;
 * of a document that is cut at least its heading and a word are left.
 */

export interface PromptDocument {
  readonly title: string
  readonly text: string
}

export interface FittedDocuments {
  /** Empty where no document fits. */
  readonly text: string
  /** How many of the documents are in it. */
  readonly count: number
  /** Whether the last of them was cut. */
  readonly isCut: boolean
}

const NONE: FittedDocuments = { text: '', count: 0, isCut: false }
/** No language's text has more characters to a token on average; more is not tried. */
const CHARACTERS_PER_TOKEN_MAX = 8
/** Good enough: the room left over, as a share of all. */
const SLACK_SHARE = 0.02
const TRIALS_MAX = 10

/**
 * @param tokensOf tokens of the whole prompt with this text before the question
 * @param tokensMax most tokens that the prompt may have
 */
export async function fitDocuments(
  documents: readonly PromptDocument[],
  tokensMax: number,
  tokensOf: (text: string) => Promise<number>,
): Promise<FittedDocuments> {
  const blocks = documents.map(blockOf)
  const characters = blocks.reduce((sum, block) => sum + block.length, 0)
  // Between what fits and what does not, a guess by proportion is seldom far off.
  let fits = { characters: 0, tokens: 0 }
  let tooMany = { characters: Math.min(characters, tokensMax * CHARACTERS_PER_TOKEN_MAX), tokens: 0 }
  const all = cutAfter(blocks, tooMany.characters)
  tooMany = { ...tooMany, tokens: await tokensOf(all.text) }
  if (tooMany.tokens <= tokensMax) return all
  fits = { ...fits, tokens: await tokensOf('') }
  if (fits.tokens >= tokensMax) return NONE
  let best = NONE
  for (let trial = 0; trial < TRIALS_MAX; trial++) {
    if (tokensMax - fits.tokens <= Math.max(4, tokensMax * SLACK_SHARE)) break
    const share = (tokensMax - fits.tokens) / (tooMany.tokens - fits.tokens)
    const span = tooMany.characters - fits.characters
    // Never quite at an end, so that every trial narrows the span.
    const guess = fits.characters + Math.ceil(span * Math.min(0.95, Math.max(0.05, share * 0.99)))
    if (guess <= fits.characters || guess >= tooMany.characters) break
    const cut = cutAfter(blocks, guess)
    const tokens = await tokensOf(cut.text)
    if (tokens <= tokensMax) {
      fits = { characters: guess, tokens }
      best = cut
    } else {
      tooMany = { characters: guess, tokens }
    }
  }
  return best
}

/** The text with at most so many characters of the documents. */
export function cutAfter(blocks: readonly string[], characters: number): FittedDocuments {
  let left = characters
  let isCut = false
  const kept: string[] = []
  for (const block of blocks) {
    const part = block.length <= left ? block : cutAtWord(block, left)
    if (part === '' && block !== '') break
    kept.push(part)
    left -= part.length
    isCut = part.length < block.length
    if (isCut) break
  }
  if (kept.length === 0) return NONE
  const numbered = kept.map((block, index) => `[${index + 1}] ${block}\n\n`)
  return { text: `Documents:\n\n${numbered.join('')}`, count: kept.length, isCut }
}

export function blockOf({ title, text }: PromptDocument): string {
  const heading = title.replaceAll(/\s+/g, ' ').trim()
  return [heading, text.trim()].filter((part) => part !== '').join('\n')
}

/** The longest beginning of at most `length` characters that ends with a word; empty where no word of the text is left. */
function cutAtWord(block: string, length: number): string {
  const isBetweenWords = /\s/.test(block[length] ?? '')
  const beginning = block.slice(0, length)
  const words = isBetweenWords ? beginning : beginning.replace(/\S*$/, '')
  const cut = words.trimEnd()
  if (cut !== '') return block.includes('\n') && !cut.includes('\n') ? '' : cut
  // A script without spaces: between two characters.
  return /\s/.test(block) ? '' : beginning.replace(/[\uD800-\uDBFF]$/, '')
}
