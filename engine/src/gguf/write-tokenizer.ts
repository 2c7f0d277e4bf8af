/**
 * A tokenizer in the form of tokenizer.json as GGUF's metadata: what ggufTokenizer reads, the other way round.
 *
 * A rule that cuts words which GGUF has no name for cannot be said in its own keys: then the original goes
 * along under `tokenizer.huggingface.json`.
 */
import { z } from 'zod'
import type { TokenizerFiles } from '../model-files.js'
import type { MetadataEntry } from './gguf-writer.js'
import { preTokenizerName } from './pre-tokenizers.js'
import { TOKEN_KINDS, type TokenKind } from './special-tokens.js'

const schema = z.looseObject({
  added_tokens: z.array(z.looseObject({ id: z.number(), content: z.string(), special: z.boolean() })),
  pre_tokenizer: z.unknown(),
  model: z.looseObject({
    vocab: z.record(z.string(), z.number()),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])),
    byte_fallback: z.boolean().nullish(),
    ignore_merges: z.boolean().nullish(),
    unk_token: z.string().nullish(),
  }),
})
const splitSchema = z.looseObject({ type: z.literal('Split'), pattern: z.looseObject({ Regex: z.string() }) })
const sequenceSchema = z.looseObject({ pretokenizers: z.array(z.unknown()) })

/** Throws ZodError for a tokenizer that is no BPE. `vocabularySize`: of the model, which may have more than the tokenizer. */
export function tokenizerMetadata(
  { tokenizer, settings, chatTemplate }: TokenizerFiles,
  vocabularySize: number,
): MetadataEntry[] {
  const { added_tokens: added, model, pre_tokenizer: cutting } = schema.parse(tokenizer)
  const merges = model.merges.map((merge): readonly string[] =>
    typeof merge === 'string' ? merge.split(' ', 2) : merge,
  )
  const pieces = model.byte_fallback === true
  const tokens = Array.from({ length: vocabularySize }, (_, id) => `[PAD${id}]`)
  const kinds = new Array<TokenKind>(vocabularySize).fill('unused')
  for (const [text, id] of Object.entries(model.vocab)) {
    tokens[id] = text
    kinds[id] = pieces && /^<0x[0-9A-F]{2}>$/.test(text) ? 'byte' : 'normal'
  }
  for (const { id, content, special } of added) {
    tokens[id] = content
    kinds[id] = content === model.unk_token ? 'unknown' : special ? 'control' : 'user-defined'
  }
  const rule = pieces ? undefined : preTokenizerName(regexesOf(cutting), model.ignore_merges === true)
  const entries: MetadataEntry[] = [
    ['tokenizer.ggml.model', 'string', pieces ? 'llama' : 'gpt2'],
    ['tokenizer.ggml.tokens', 'strings', tokens],
    ['tokenizer.ggml.token_type', 'i32s', kinds.map((kind) => TOKEN_KINDS.indexOf(kind))],
    ['tokenizer.ggml.add_bos_token', 'bool', settings.add_bos_token === true],
  ]
  if (pieces) {
    entries.push(['tokenizer.ggml.scores', 'f32s', scoresOf(tokens, merges)])
    entries.push(['tokenizer.ggml.add_space_prefix', 'bool', JSON.stringify(tokenizer).includes('"Prepend"')])
  } else {
    entries.push(['tokenizer.ggml.pre', 'string', rule ?? 'gpt-2'])
    entries.push(['tokenizer.ggml.merges', 'strings', merges.map((merge) => merge.join(' '))])
    if (rule === undefined) entries.push(['tokenizer.huggingface.json', 'string', JSON.stringify(tokenizer)])
  }
  for (const [key, setting] of Object.entries({
    bos: 'bos_token',
    eos: 'eos_token',
    unknown: 'unk_token',
    padding: 'pad_token',
  })) {
    const id = tokens.indexOf(String(settings[setting]))
    if (id >= 0) entries.push([`tokenizer.ggml.${key}_token_id`, 'u32', id])
  }
  const template = chatTemplate ?? settings.chat_template
  if (typeof template === 'string') entries.push(['tokenizer.chat_template', 'string', template])
  return entries
}

/** What cuts words, as regular expressions; undefined where something else does. */
function regexesOf(cutting: unknown): string[] | 'byte-level' {
  const sequence = sequenceSchema.safeParse(cutting)
  const steps = sequence.success ? sequence.data.pretokenizers : [cutting]
  const splits = steps.map((step) => splitSchema.safeParse(step))
  const regexes = splits.flatMap((split) => (split.success ? [split.data.pattern.Regex] : []))
  return regexes.length === 0 ? 'byte-level' : regexes
}

/** The earlier a token is merged, the better its score; what is merged from nothing scores as SentencePiece's bytes do. */
function scoresOf(tokens: readonly string[], merges: readonly (readonly string[])[]): number[] {
  const ranks = new Map<string, number>()
  for (const [rank, merge] of merges.entries()) {
    const text = merge.join('')
    if (!ranks.has(text)) ranks.set(text, rank)
  }
  return tokens.map((text) => -(ranks.get(text) ?? 0))
}
