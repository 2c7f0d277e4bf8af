import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { UnsupportedError } from '@kvasir/runtime/errors'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { resolveModel, type TokenizerFiles } from '../model-files.js'
import { loadTextModel, type TextModel } from '../text/text-model.js'
import type { GgufMetadata, GgufValue } from './gguf-header.js'
import { ggufTokenizer } from './gguf-tokenizer.js'
import type { MetadataEntry } from './gguf-writer.js'
import { preTokenizer } from './pre-tokenizers.js'
import { sentencePieceMerges } from './sentencepiece-merges.js'
import { type GgufToken, stopTokensOf, TOKEN_KINDS } from './special-tokens.js'
import { writeModelAsGguf } from './write-model.js'
import { tokenizerMetadata } from './write-tokenizer.js'

function asMetadata(entries: readonly MetadataEntry[]): GgufMetadata {
  return new Map<string, GgufValue>(entries.map(([key, , value]) => [key, value]))
}

/** What is read back of a tokenizer that was written. */
function readBack(files: TokenizerFiles, vocabularySize: number): TokenizerFiles {
  return ggufTokenizer(asMetadata(tokenizerMetadata(files, vocabularySize)), 'model.gguf', 'model')
}

const tokenizerOf = ({ tokenizer, settings }: TokenizerFiles) => new Tokenizer(tokenizer, settings)

/** Texts that take different ways: words, contractions, digits, spaces, several scripts, bytes, special tokens. */
const TEXTS = [
  "Hello there, it's 12345 o'clock. WE'LL see",
  '  two  spaces\n\nand lines \t tab ',
  'naïve Ünïcode 日本語 🙂 e\u0301',
  '<|begin|>special<|end|>',
  'x'.repeat(50),
  '',
]
const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.string({ unit: fc.constantFrom(..."abcde 1.\n'<|>AB▁"), maxLength: 40 }),
)

describe('a byte-level tokenizer', () => {
  let folder: string
  let skald: TextModel
  let gguf: TextModel
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'kvasir-gguf-'))
    const path = join(folder, 'tale.gguf')
    await writeModelAsGguf(await resolveModel('skald'), 'Q8_0', path)
    skald = await loadTextModel('skald')
    gguf = await loadTextModel(path)
  })
  afterAll(() => rmSync(folder, { recursive: true }))

  it('encodes and decodes as the model that was written', () => {
    expect(gguf).toMatchObject({ name: 'tale', stopTokens: [1], hasChatTemplate: true, vocabularySize: 2048 })
    fc.assert(
      fc.property(anyText, (text) => {
        expect(gguf.encode(text)).toEqual(skald.encode(text))
      }),
      { numRuns: 200 },
    )
    const messages = [{ role: 'user', content: 'Once upon a time' }]
    expect(gguf.encodeChat(messages)).toEqual(skald.encodeChat(messages))
    for (let id = 0; id < 2048; id++) expect(gguf.tokenBytes(id)).toEqual(skald.tokenBytes(id))
    const decoder = gguf.decoder()
    expect(decoder.push(1) + decoder.push(skald.encode('a')[1] ?? 0)).toBe('a')
  })

  it.each(['llama-bpe', 'qwen2', 'gpt-2', 'smollm', 'tekken'])(
    'cuts words by the rule %s as tokenizer.json writes it',
    async (name) => {
      const files = await (await resolveModel('skald')).readTokenizer()
      const rule = preTokenizer(name)
      if (files === undefined || rule === undefined) throw new Error('not there')
      const { model, ...rest } = files.tokenizer
      const tokenizer = {
        ...rest,
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
        model: { ...(model as object), ignore_merges: rule.ignoreMerges },
      }
      const original = { ...files, tokenizer }
      const back = readBack(original, 2050)
      expect(asMetadata(tokenizerMetadata(original, 2050)).get('tokenizer.ggml.pre')).toBe(name)
      expect(back.settings).toMatchObject({
        bos_token: '<|begin|>',
        eos_token: '<|end|>',
        add_bos_token: true,
      })
      const [expected, got] = [tokenizerOf(original), tokenizerOf(back)]
      const same = (text: string) => {
        expect(got.encode(text).ids).toEqual(expected.encode(text).ids)
      }
      TEXTS.forEach(same)
      fc.assert(fc.property(anyText, same), { numRuns: 100 })
    },
  )

  it('knows the rules by what they do', () => {
    const words = (name: string, text: string) =>
      (preTokenizer(name)?.patterns ?? []).reduce<string[]>(
        (pieces, pattern) => pieces.flatMap((piece) => cut(piece, pattern)),
        [text],
      )
    const text = "we'LL count 12345"
    expect(words('gpt-2', text)).toEqual(['we', "'", 'LL', ' count', ' 12345'])
    expect(words('llama-bpe', text)).toEqual(['we', "'LL", ' count', ' ', '123', '45'])
    expect(words('qwen2', text)).toEqual(['we', "'LL", ' count', ' ', '1', '2', '3', '4', '5'])
    expect(words('smollm', text)).toEqual(['we', "'", 'LL', ' count', ' ', '1', '2', '3', '4', '5'])
    expect(words('tekken', 'parseHTML5')).toEqual(['parse', 'HTML', '5'])
  })
})

/** Pieces of a text by one expression, as the tokenizers' library cuts them. */
function cut(text: string, pattern: string): string[] {
  const tokenizer = new Tokenizer(
    {
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
      post_processor: null,
      decoder: null,
      model: { type: 'BPE', vocab: {}, merges: [], unk_token: null },
    },
    {},
  )
  return tokenizer.pre_tokenizer?.(text, {}) ?? []
}

describe('a SentencePiece tokenizer', () => {
  /** SentencePiece's own way: join the neighbours whose union scores best, the leftmost of equals. */
  function joinByScore(text: string, tokens: readonly GgufToken[]): string[] {
    const scores = new Map(tokens.map(({ text: piece, score }) => [piece, score]))
    const symbols = [...text]
    for (;;) {
      let best = -1
      let bestScore = Number.NEGATIVE_INFINITY
      for (let i = 0; i + 1 < symbols.length; i++) {
        const score = scores.get(`${symbols[i]}${symbols[i + 1]}`)
        if (score !== undefined && score > bestScore) [best, bestScore] = [i, score]
      }
      if (best < 0) return symbols
      symbols.splice(best, 2, `${symbols[best]}${symbols[best + 1]}`)
    }
  }

  const ALPHABET = [...'ab▁']
  /** Pieces with scores of their own, made by joining earlier ones, as training makes them. */
  const anyPieces = fc
    .array(fc.tuple(fc.nat(1000), fc.nat(1000)), { minLength: 1, maxLength: 25 })
    .map((joins) => {
      const pieces = [...ALPHABET]
      for (const [left, right] of joins) {
        const text = `${pieces[left % pieces.length]}${pieces[right % pieces.length]}`
        if (text.length <= 8 && !pieces.includes(text)) pieces.push(text)
      }
      return pieces.map((text, id): GgufToken => ({ id, text, kind: 'normal', score: -id }))
    })

  it('joins pieces in the order of their scores', () => {
    fc.assert(
      fc.property(
        anyPieces,
        fc.string({ unit: fc.constantFrom(...ALPHABET), maxLength: 40 }),
        (tokens, text) => {
          const made = new Tokenizer(
            {
              added_tokens: [],
              normalizer: null,
              pre_tokenizer: null,
              post_processor: null,
              decoder: null,
              model: {
                type: 'BPE',
                vocab: Object.fromEntries(tokens.map((token) => [token.text, token.id])),
                merges: sentencePieceMerges(tokens),
                unk_token: null,
              },
            },
            {},
          )
          expect(made.encode(text).tokens).toEqual(joinByScore(text, tokens))
        },
      ),
      { numRuns: 2_000 },
    )
  })

  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  )
  const words = ['▁', 'a', 'b', 'c', 'd', 'e', '▁a', '▁b', 'ab', 'cd', '▁ab', 'abcd', '▁abcd', '▁▁', '1', '.']
  const pieces = ['<unk>', '<s>', '</s>', ...bytes, ...words, '<|user|>', '<tool>']
  const id = (text: string) => pieces.indexOf(text)
  const original = (prefix: boolean): TokenizerFiles => ({
    tokenizer: {
      version: '1.0',
      added_tokens: ['<unk>', '<s>', '</s>', '<|user|>', '<tool>'].map((content) => ({
        id: id(content),
        content,
        special: content !== '<tool>',
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
      })),
      normalizer: {
        type: 'Sequence',
        normalizers: [
          ...(prefix ? [{ type: 'Prepend', prepend: '▁' }] : []),
          { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
        ],
      },
      pre_tokenizer: null,
      post_processor: null,
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          { type: 'Strip', content: ' ', start: prefix ? 1 : 0, stop: 0 },
        ],
      },
      model: {
        type: 'BPE',
        unk_token: '<unk>',
        fuse_unk: true,
        byte_fallback: true,
        vocab: Object.fromEntries(pieces.map((text, at) => [text, at])),
        merges: [
          ['▁', 'a'],
          ['▁', 'b'],
          ['a', 'b'],
          ['c', 'd'],
          ['▁a', 'b'],
          ['▁', 'ab'],
          ['ab', 'cd'],
          ['▁ab', 'cd'],
          ['▁', 'abcd'],
          ['▁', '▁'],
        ],
      },
    },
    settings: { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>', add_bos_token: true },
    chatTemplate: '{{ bos_token }}{{ messages[0].content }}',
  })

  it.each([true, false])(
    'encodes and decodes as the tokenizer.json that was written (space first: %s)',
    (prefix) => {
      const files = original(prefix)
      const back = readBack(files, pieces.length + 3)
      expect(back.settings).toMatchObject({ ...files.settings, chat_template: files.chatTemplate })
      const [expected, got] = [tokenizerOf(files), tokenizerOf(back)]
      const same = (text: string) => {
        const { ids } = got.encode(text)
        expect(ids).toEqual(expected.encode(text).ids)
        if (ids.length > 0)
          expect(got.decode(ids)).toBe(expected.decode(ids, { clean_up_tokenization_spaces: false }))
      }
      TEXTS.forEach(same)
      same('ab cd abcd  <tool>ab<|user|> cdé日')
      fc.assert(fc.property(anyText, same), { numRuns: 300 })
      expect(got.encode('é').ids.slice(-2)).toEqual([id('<0xC3>'), id('<0xA9>')])
    },
  )
})

describe('metadata', () => {
  const base: [string, GgufValue][] = [
    ['tokenizer.ggml.model', 'gpt2'],
    ['tokenizer.ggml.tokens', ['a', 'b', 'ab', '<|im_end|>', '<eos>', '<eot>']],
    ['tokenizer.ggml.token_type', [1, 1, 1, TOKEN_KINDS.indexOf('control'), 3, 3]],
    ['tokenizer.ggml.merges', ['a b']],
    ['tokenizer.ggml.eos_token_id', 4],
    ['tokenizer.ggml.eot_token_id', 5],
  ]
  const read = (...changes: [string, GgufValue][]) =>
    ggufTokenizer(new Map([...base, ...changes]), 'model.gguf', 'model')

  it('names every token that ends a text', () => {
    expect(stopTokensOf(new Map(base)).sort()).toEqual([3, 4, 5])
  })

  it('adds an end token where the file says so, a begin token where it or the rule does', () => {
    expect(tokenizerOf(read()).encode('ab').ids).toEqual([2])
    expect(tokenizerOf(read(['tokenizer.ggml.add_eos_token', true])).encode('ab').ids).toEqual([2, 4])
    expect(read().settings.add_bos_token).toBe(false)
    expect(read(['tokenizer.ggml.pre', 'llama-bpe']).settings.add_bos_token).toBe(true)
    expect(
      read(['tokenizer.ggml.pre', 'llama-bpe'], ['tokenizer.ggml.add_bos_token', false]).settings
        .add_bos_token,
    ).toBe(false)
  })

  it('refuses by name what it does not know', () => {
    expect(() => read(['tokenizer.ggml.pre', 'falcon'])).toThrow(UnsupportedError)
    expect(() => read(['tokenizer.ggml.pre', 'falcon'])).toThrow('cuts words by the rule falcon')
    expect(() => read(['tokenizer.ggml.model', 'bert'])).toThrow('of the kind bert')
    expect(() => read(['tokenizer.ggml.merges', ['ab']])).toThrow('a merge of one part')
    expect(() => read(['tokenizer.huggingface.json', '{'])).toThrow('model.gguf is damaged')
    expect(() => ggufTokenizer(new Map(), 'model.gguf', 'model')).toThrow('model.gguf has no tokenizer')
  })
})
