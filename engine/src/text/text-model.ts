/**
 * Everything about a model that concerns text: tokens, chat template, limits. Loads no weights and
 * no ONNX Runtime, so that a gateway can use it.
 */
import { Tokenizer } from '@huggingface/tokenizers'
import { InvalidInputError, messageOf, UnsupportedError } from '@kvasir/runtime/errors'
import { type ResolvedModel, resolveModel, type TokenizerFiles } from '../model-files.js'
import { beginTokens } from './begin-tokens.js'
import { type ChatMessage, createChatTemplate, templateSource } from './chat-template.js'
import { createDummyText } from './dummy-text.js'
import { createStreamDecoder, type StreamDecoder } from './stream-decoder.js'
import { createTokenTable } from './token-bytes.js'

export interface TextModel {
  readonly name: string
  /** SHA-256 of config.json and weights, hexadecimal: equal to the one a device that loaded the model tells. */
  readonly digest: string
  readonly contextTokensMax: number
  readonly vocabularySize: number
  /** Tokens that end a text. */
  readonly stopTokens: readonly number[]
  readonly hasChatTemplate: boolean
  /** With the tokens that begin a text unless `addSpecialTokens` is false. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): number[]
  /** Throws UnsupportedError without a chat template, InvalidInputError when it refuses the messages. */
  renderChat(messages: readonly ChatMessage[]): string
  /** The rendered messages as tokens, ready for an answer. Throws as `renderChat` does. */
  encodeChat(messages: readonly ChatMessage[]): number[]
  /** A single token's bytes; of a special token its name. */
  tokenBytes(id: number): Uint8Array
  /** A single token as text; bytes that are no whole character become U+FFFD. */
  tokenText(id: number): string
  /** Reads an answer token by token; special tokens add nothing. */
  decoder(): StreamDecoder
}

/** A folder with a model's files but no weights, and what only the whole model tells. */
export interface TextFiles {
  readonly folder: string
  readonly name: string
  readonly digest: string
}

/** `model`: as for `resolveModel`, or files that were fetched without the weights. */
export async function loadTextModel(model: string | TextFiles): Promise<TextModel> {
  if (typeof model !== 'string') {
    const { folder, name, digest } = model
    return textModelOf({ ...(await resolveModel(folder)), name }, digest)
  }
  const resolved = await resolveModel(model)
  return textModelOf(resolved, await resolved.digest())
}

async function textModelOf(model: ResolvedModel, digest: string): Promise<TextModel> {
  const files = await model.readTokenizer()
  return files === undefined ? createDummyText(model, digest) : createTextModel(model, files, digest)
}

function createTextModel(
  model: ResolvedModel,
  { tokenizer: tokenizerJson, settings, chatTemplate }: TokenizerFiles,
  digest: string,
): TextModel {
  const table = createTokenTable(tokenizerJson, model.name)
  let tokenizer: Tokenizer
  try {
    tokenizer = new Tokenizer(tokenizerJson, settings)
  } catch (error) {
    throw new InvalidInputError(
      `tokenizer.json of the model ${model.name} cannot be used (${messageOf(error)}); fetch the model again.`,
    )
  }

  const names = specialTokenNames(settings)
  const source = chatTemplate ?? templateSource(settings.chat_template)
  const template = source === undefined ? undefined : createChatTemplate(source, names, model.name)
  const begin = beginTokens(tokenizer, settings, names.bos_token)
  const end = names.eos_token === undefined ? undefined : tokenizer.token_to_id(names.eos_token)

  const encode: TextModel['encode'] = (text, options) => {
    const tokens = tokenizer.encode(text, { add_special_tokens: false }).ids
    return options?.addSpecialTokens === false ? tokens : [...begin, ...tokens]
  }
  /** A template writes the special tokens itself; some leave out the one that a text must begin with. */
  const encodeRendered = (text: string): number[] => {
    const tokens = encode(text, { addSpecialTokens: false })
    const [first] = begin
    return settings.add_bos_token !== true || first === undefined || tokens[0] === first
      ? tokens
      : [...begin, ...tokens]
  }
  const renderChat = (messages: readonly ChatMessage[]) => {
    if (template === undefined) {
      throw new UnsupportedError(`The model ${model.name} has no chat template; use /v1/completions with it.`)
    }
    return template.render(messages)
  }
  const none = new Uint8Array(0)
  return {
    name: model.name,
    digest,
    contextTokensMax: model.config.contextTokensMax,
    vocabularySize: model.config.vocabularySize,
    // A model tuned for chats often says only in its tokenizer what ends an answer.
    stopTokens: [...new Set([...model.stopTokens, ...(end === undefined ? [] : [end])])],
    hasChatTemplate: template !== undefined,
    encode,
    renderChat,
    encodeChat: (messages) => encodeRendered(renderChat(messages)),
    tokenBytes: (id) => table.bytes(id),
    tokenText: (id) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(table.bytes(id)),
    decoder: () => createStreamDecoder((id) => (table.isSpecial(id) ? none : table.bytes(id))),
  }
}

/** `bos_token`, `eos_token`, … of tokenizer_config.json, each a text or an object with `content`. */
function specialTokenNames(settings: Record<string, unknown>): Record<string, string> {
  const names: Record<string, string> = {}
  for (const key of ['bos_token', 'eos_token', 'unk_token', 'pad_token']) {
    const value = settings[key]
    const text = typeof value === 'object' && value !== null && 'content' in value ? value.content : value
    if (typeof text === 'string') names[key] = text
  }
  return names
}
