/**
 * The tokenizer in a GGUF file, written as Hugging Face's tokenizer.json and tokenizer_config.json.
 *
 * A file may carry the original under `tokenizer.huggingface.json`, which is then used. Otherwise `gpt2` is
 * byte-level BPE with merges and a named rule that cuts words, `llama` is SentencePiece's BPE with
 * scores and bytes for what is in no piece.
 */
import { InvalidInputError, messageOf, UnsupportedError } from '@kvasir/runtime/errors'
import type { TokenizerFiles } from '../model-files.js'
import { damaged, type GgufMetadata } from './gguf-header.js'
import { PRE_TOKENIZER_NAMES, preTokenizer } from './pre-tokenizers.js'
import { sentencePieceMerges } from './sentencepiece-merges.js'
import { type GgufToken, list, tokensOf } from './special-tokens.js'

const SPACE_MARK = '▁'

/** Throws InvalidInputError for a damaged or missing tokenizer, UnsupportedError for one of another kind. */
export function ggufTokenizer(metadata: GgufMetadata, path: string, name: string): TokenizerFiles {
  const kind = metadata.get('tokenizer.ggml.model')
  const tokens = tokensOf(metadata)
  if (typeof kind !== 'string' || tokens.length === 0) {
    throw new InvalidInputError(
      `The model file ${path} has no tokenizer; convert the model again with a current llama.cpp.`,
    )
  }
  const original = metadata.get('tokenizer.huggingface.json')
  const made = typeof original === 'string' ? undefined : madeTokenizer(kind, metadata, tokens, path, name)
  return {
    tokenizer: made?.tokenizer ?? parseOriginal(String(original), path),
    settings: settingsOf(metadata, tokens, made?.addBegin ?? false),
    chatTemplate: undefined,
  }
}

function madeTokenizer(
  kind: string,
  metadata: GgufMetadata,
  tokens: readonly GgufToken[],
  path: string,
  name: string,
): { tokenizer: Record<string, unknown>; addBegin: boolean } {
  const common = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(tokens),
    post_processor: endProcessor(metadata, tokens),
  }
  const vocab = Object.fromEntries(
    tokens.filter((token) => token.kind !== 'unused').map(({ text, id }) => [text, id]),
  )
  if (kind === 'gpt2') {
    const rule = wordRule(metadata, name)
    const merges = list(metadata, 'tokenizer.ggml.merges').map((merge) => mergeParts(merge, path))
    const tokenizer = {
      ...common,
      normalizer: rule.normaliser === undefined ? null : { type: rule.normaliser },
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [
          ...rule.patterns.map((Regex) => ({
            type: 'Split',
            pattern: { Regex },
            behavior: 'Isolated',
            invert: false,
          })),
          { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
        ],
      },
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: { type: 'BPE', unk_token: null, vocab, merges, ignore_merges: rule.ignoreMerges },
    }
    return { tokenizer, addBegin: rule.addBegin }
  }
  if (kind !== 'llama') {
    throw new UnsupportedError(
      `The tokenizer of the model ${name} is of the kind ${kind}, which is not supported; use a model with gpt2 or llama.`,
    )
  }
  const prefixed = metadata.get('tokenizer.ggml.add_space_prefix') !== false
  const marks = { type: 'Replace', pattern: { String: ' ' }, content: SPACE_MARK }
  const tokenizer = {
    ...common,
    normalizer: prefixed
      ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: SPACE_MARK }, marks] }
      : marks,
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: SPACE_MARK }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(prefixed ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      unk_token: tokens.find((token) => token.kind === 'unknown')?.text ?? null,
      fuse_unk: true,
      byte_fallback: true,
      vocab,
      merges: sentencePieceMerges(tokens),
    },
  }
  return { tokenizer, addBegin: true }
}

function parseOriginal(text: string, path: string): Record<string, unknown> {
  try {
    const json: unknown = JSON.parse(text)
    if (typeof json === 'object' && json !== null) return { ...json }
    throw new Error('not an object')
  } catch (error) {
    throw damaged(path, `its tokenizer.huggingface.json is not JSON: ${messageOf(error)}`)
  }
}

function wordRule(metadata: GgufMetadata, name: string) {
  const named = metadata.get('tokenizer.ggml.pre') ?? 'default'
  const rule = typeof named === 'string' ? preTokenizer(named) : undefined
  if (rule !== undefined) return rule
  throw new UnsupportedError(
    `The tokenizer of the model ${name} cuts words by the rule ${named}, which is not supported; use a model with one of ${PRE_TOKENIZER_NAMES.join(', ')}.`,
  )
}

function mergeParts(merge: unknown, path: string): readonly [string, string] {
  // A part may be a space itself only in tokenizers that are not byte-level.
  const at = typeof merge === 'string' ? merge.indexOf(' ', 1) : -1
  if (typeof merge !== 'string' || at < 0) throw damaged(path, 'its tokenizer has a merge of one part')
  return [merge.slice(0, at), merge.slice(at + 1)]
}

function addedTokens(tokens: readonly GgufToken[]) {
  return tokens
    .filter(({ kind }) => kind === 'control' || kind === 'user-defined' || kind === 'unknown')
    .map(({ id, text, kind }) => ({
      id,
      content: text,
      special: kind !== 'user-defined',
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    }))
}

/** Where the file says that a text ends with a token. */
function endProcessor(metadata: GgufMetadata, tokens: readonly GgufToken[]) {
  const end = namedToken(metadata, tokens, 'eos')
  if (metadata.get('tokenizer.ggml.add_eos_token') !== true || end === undefined) return null
  const { text, id } = end
  return {
    type: 'TemplateProcessing',
    single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: text, type_id: 0 } }],
    pair: [],
    special_tokens: { [text]: { id: text, ids: [id], tokens: [text] } },
  }
}

function settingsOf(
  metadata: GgufMetadata,
  tokens: readonly GgufToken[],
  addBegin: boolean,
): Record<string, unknown> {
  const names: Record<string, string> = {}
  for (const [key, settings] of Object.entries({
    bos: 'bos_token',
    eos: 'eos_token',
    unknown: 'unk_token',
    padding: 'pad_token',
  })) {
    const token = namedToken(metadata, tokens, key)
    if (token !== undefined) names[settings] = token.text
  }
  const begin = metadata.get('tokenizer.ggml.add_bos_token')
  return {
    ...names,
    add_bos_token: typeof begin === 'boolean' ? begin : addBegin,
    clean_up_tokenization_spaces: false,
    chat_template: metadata.get('tokenizer.chat_template'),
  }
}

function namedToken(
  metadata: GgufMetadata,
  tokens: readonly GgufToken[],
  name: string,
): GgufToken | undefined {
  const id = metadata.get(`tokenizer.ggml.${name}_token_id`)
  return typeof id === 'number' ? tokens[id] : undefined
}
