/**
 * Which tokens a text begins with.
 *
 * G1 tokenizer.json says it by its post-processor. Where tokenizer_config.json says otherwise with `add_bos_token`, that
 *    counts, as it does in Hugging Face's libraries: `true` for every tokenizer, `false` for those of Llama's kind alone.
 * G2 A prompt is there to be continued: tokens that would end the text (`add_eos_token`) are never added.
 */
import type { Tokenizer } from '@huggingface/tokenizers'

/** `beginName`: the `bos_token` of tokenizer_config.json. */
export function beginTokens(
  tokenizer: Tokenizer,
  settings: Readonly<Record<string, unknown>>,
  beginName: string | undefined,
): number[] {
  const own = addedBefore(tokenizer)
  const begin = beginName === undefined ? undefined : tokenizer.token_to_id(beginName)
  if (begin === undefined) return own
  if (settings.add_bos_token === true) return own.includes(begin) ? own : [begin, ...own]
  const isLlama =
    typeof settings.tokenizer_class === 'string' && /^(Code)?Llama/.test(settings.tokenizer_class)
  return settings.add_bos_token === false && isLlama ? own.filter((token) => token !== begin) : own
}

/** What the post-processor puts before a text. */
function addedBefore(tokenizer: Tokenizer): number[] {
  const plain: number[] = tokenizer.encode('a', { add_special_tokens: false }).ids
  const whole: number[] = tokenizer.encode('a', { add_special_tokens: true }).ids
  const before = whole.findIndex((_, at) => plain.every((token, i) => whole[at + i] === token))
  return before > 0 ? whole.slice(0, before) : []
}
