/** The tokenizer's vocabulary as GGUF keeps it, and which of its tokens are special. */
import type { GgufMetadata, GgufValue } from './gguf-header.js'

/** `llama_token_type`, each at its number. */
export const TOKEN_KINDS = [
  'undefined',
  'normal',
  'unknown',
  'control',
  'user-defined',
  'unused',
  'byte',
] as const
export type TokenKind = (typeof TOKEN_KINDS)[number]

export interface GgufToken {
  readonly id: number
  readonly text: string
  readonly kind: TokenKind
  readonly score: number
}

/** In the order of their ids; empty where the file has no tokenizer. Texts and kinds that are damaged count as empty and normal. */
export function tokensOf(metadata: GgufMetadata): GgufToken[] {
  const kinds = list(metadata, 'tokenizer.ggml.token_type')
  const scores = list(metadata, 'tokenizer.ggml.scores')
  return list(metadata, 'tokenizer.ggml.tokens').map((text, id) => {
    const [kind, score] = [kinds[id], scores[id]]
    return {
      id,
      text: typeof text === 'string' ? text : '',
      kind: (typeof kind === 'number' ? TOKEN_KINDS[kind] : undefined) ?? 'normal',
      score: typeof score === 'number' ? score : 0,
    }
  })
}

export function list(metadata: GgufMetadata, key: string): readonly GgufValue[] {
  const value = metadata.get(key)
  return Array.isArray(value) ? value : []
}

/** Ends of a turn or a text that llama.cpp knows by name, since files name only one or two by number. */
const END_NAMES = new Set([
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end_of_text|>',
  '<|endoftext|>',
  '<end_of_turn>',
  '<EOT>',
])

/** Tokens that end a text. */
export function stopTokensOf(metadata: GgufMetadata): number[] {
  const named = ['eos', 'eot', 'eom'].map((name) => metadata.get(`tokenizer.ggml.${name}_token_id`))
  const ids = new Set(named.filter((id) => typeof id === 'number'))
  for (const { id, text, kind } of tokensOf(metadata)) {
    if (kind === 'control' && END_NAMES.has(text)) ids.add(id)
  }
  return [...ids]
}
