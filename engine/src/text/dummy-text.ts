/**
 * Text for generated models: tokens 0–255 are the bytes, 256 begins a text, every other token is a
 * fixed made-up word. Any text can be encoded and any answer read.
 */
import { UnsupportedError } from '@kvasir/runtime/errors'
import type { ResolvedModel } from '../model-files.js'
import { createStreamDecoder } from './stream-decoder.js'
import type { TextModel } from './text-model.js'

const BEGIN_TOKEN = 256
const SYLLABLES = 'ba be da de fa ga ha ka la li ma mi na no ra ro sa so ta tu va vi wa zo'.split(' ')

export function createDummyText(model: ResolvedModel, digest: string): TextModel {
  const encoder = new TextEncoder()
  const bytes = (id: number): Uint8Array => {
    if (id < 256) return Uint8Array.of(id)
    return id === BEGIN_TOKEN ? new Uint8Array(0) : encoder.encode(wordOf(id))
  }
  const encode: TextModel['encode'] = (text, options) => {
    const tokens = [...encoder.encode(text)]
    return options?.addSpecialTokens === false ? tokens : [BEGIN_TOKEN, ...tokens]
  }
  const refuseChat = (): never => {
    throw new UnsupportedError(`The model ${model.name} has no chat template; use /v1/completions with it.`)
  }
  return {
    name: model.name,
    digest,
    contextTokensMax: model.config.contextTokensMax,
    vocabularySize: model.config.vocabularySize,
    stopTokens: [...model.stopTokens],
    hasChatTemplate: false,
    encode,
    renderChat: refuseChat,
    encodeChat: refuseChat,
    tokenBytes: (id) => (id === BEGIN_TOKEN ? encoder.encode('<begin>') : bytes(id)),
    tokenText: (id) => (id === BEGIN_TOKEN ? '<begin>' : new TextDecoder().decode(bytes(id))),
    decoder: () => createStreamDecoder(bytes),
  }
}

function wordOf(id: number): string {
  let word = ' '
  for (let rest = id; rest > 0; rest = Math.floor(rest / SYLLABLES.length)) {
    word += SYLLABLES[rest % SYLLABLES.length] ?? ''
  }
  return word
}
