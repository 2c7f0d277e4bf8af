/**
 * A text model for tests: token ids 0–255 are the bytes of UTF-8, the ids above them whole
 * words. Its texts can be computed by hand.
 */
import { createStreamDecoder } from '@kvasir/engine/text/stream-decoder'
import type { TextModel } from '@kvasir/engine/text/text-model'
import { UnsupportedError } from '@kvasir/runtime/errors'
import { NO_HASHES } from '../../core/block-hashes.js'
import type { TextModels } from '../../models/text-models.js'
import type { PromptEncoder } from '../prompt-encoder.js'
import { promptHashes } from '../prompt-hashes.js'

export const WORDS = ['Hello', ' world', 'END', 'ST', 'OP', '!'] as const

/** Id of a token with a text of this many bytes, to fill buffers with. */
export const LONG_WORD_ID = 256 + WORDS.length
export const LONG_WORD_BYTES = 65_536

/** Id of a word of WORDS. */
export function wordId(word: (typeof WORDS)[number]): number {
  return 256 + WORDS.indexOf(word)
}

const WORD_BYTES = [...WORDS, 'x'.repeat(LONG_WORD_BYTES)].map((word) => Buffer.from(word))

/** A text as ids, one for each byte. */
export function byteIds(text: string): number[] {
  return [...Buffer.from(text)]
}

export function letterModel(overrides: Partial<TextModel> = {}): TextModel {
  const tokenBytes = (id: number) =>
    id < 256 ? Uint8Array.of(id) : (WORD_BYTES[id - 256] ?? Buffer.alloc(0))
  const model: TextModel = {
    name: 'letters',
    digest: 'd1',
    contextTokensMax: 100,
    vocabularySize: 256 + WORD_BYTES.length,
    stopTokens: [0],
    hasChatTemplate: true,
    encode: byteIds,
    renderChat: (messages) => messages.map(({ role, content }) => `${role}:${content}\n`).join(''),
    encodeChat: (messages) => byteIds(model.renderChat(messages)),
    tokenBytes,
    tokenText: (id) => new TextDecoder().decode(tokenBytes(id)),
    decoder: () => createStreamDecoder(tokenBytes),
    ...overrides,
  }
  return model
}

export function modelWithoutTemplate(): TextModel {
  return letterModel({
    name: 'plain',
    digest: 'd2',
    hasChatTemplate: false,
    renderChat() {
      throw new UnsupportedError('no template')
    },
  })
}

/** Models that are there and stay. */
export function fixedTextModels(models: readonly TextModel[]): TextModels {
  const get = (name: string) => models.find((model) => model.name === name)
  return {
    names: () => models.map(({ name }) => name),
    digestOf: (name) => get(name)?.digest,
    get,
    find: async (name) => get(name),
  }
}

/** Encodes on the spot, where the real one has a worker. */
export function inlineEncoder(models: readonly TextModel[]): PromptEncoder {
  return {
    add() {},
    drop() {},
    async encode(digest, prompt, tenantSalt) {
      const model = models.find((known) => known.digest === digest)
      if (model === undefined) throw new Error(`no model ${digest}`)
      const tokens =
        prompt.kind === 'text'
          ? model.encode(prompt.text)
          : prompt.kind === 'chat'
            ? model.encodeChat(prompt.messages)
            : prompt.tokens
      return { tokens, blockHashes: tenantSalt ? promptHashes(model.digest, tenantSalt, tokens) : NO_HASHES }
    },
    async close() {},
  }
}
