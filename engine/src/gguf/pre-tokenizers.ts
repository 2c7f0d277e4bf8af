/**
 * How byte-level tokenizers cut text into words before they merge within them. GGUF names the rule
 * (`tokenizer.ggml.pre`), Hugging Face writes it out; both split by these expressions.
 */

export interface PreTokenizer {
  /** One after the other, each on the pieces of the one before. */
  readonly patterns: readonly string[]
  /** A word that is a token needs no merges. */
  readonly ignoreMerges: boolean
  /** Whether a text begins with the begin token where the file does not say. */
  readonly addBegin: boolean
  readonly normaliser: 'NFC' | undefined
}

const CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
const SPACES = '\\s+(?!\\S)|\\s+'
const GPT2 = `${CONTRACTIONS}| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|${SPACES}`
/** Contractions in either case, digits in groups of at most `digits`. */
const modern = (digits: string) =>
  `(?i:${CONTRACTIONS})|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|${SPACES}`
const UPPER = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
const LOWER = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
const TEKKEN =
  `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*|\\p{N}|` +
  ` ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|${SPACES}`

const plain = { ignoreMerges: false, addBegin: false, normaliser: undefined } as const
const gpt2: PreTokenizer = { ...plain, patterns: [GPT2] }
const llama3: PreTokenizer = {
  patterns: [modern('\\p{N}{1,3}')],
  ignoreMerges: true,
  addBegin: true,
  normaliser: undefined,
}
const qwen2: PreTokenizer = { ...plain, patterns: [modern('\\p{N}')], normaliser: 'NFC' }

const BY_NAME: Readonly<Record<string, PreTokenizer>> = {
  default: gpt2,
  'gpt-2': gpt2,
  'llama-bpe': llama3,
  llama3,
  'llama-v3': llama3,
  qwen2,
  'deepseek-r1-qwen': { ...qwen2, normaliser: undefined, addBegin: true },
  smollm: { ...plain, patterns: ['\\p{N}', GPT2] },
  tekken: { patterns: [TEKKEN], ignoreMerges: true, addBegin: true, normaliser: undefined },
}

export const PRE_TOKENIZER_NAMES: readonly string[] = Object.keys(BY_NAME)

export function preTokenizer(name: string): PreTokenizer | undefined {
  return Object.hasOwn(BY_NAME, name) ? BY_NAME[name] : undefined
}

/** Undefined where no name stands for these rules; `byte-level`: Hugging Face's own rule, which is that of GPT-2. */
export function preTokenizerName(
  patterns: readonly string[] | 'byte-level',
  ignoreMerges: boolean,
): string | undefined {
  const wanted = patterns === 'byte-level' ? [GPT2] : patterns
  const found = Object.entries(BY_NAME).find(
    ([name, rule]) =>
      name !== 'default' &&
      rule.ignoreMerges === ignoreMerges &&
      rule.patterns.length === wanted.length &&
      rule.patterns.every((pattern, i) => pattern === wanted[i]),
  )
  return found?.[0]
}
