import { describe, expect, it } from 'vitest'
import { createStreamDecoder } from './stream-decoder.js'
import { createTokenTable } from './token-bytes.js'

const sentencePiece = {
  added_tokens: [{ id: 2, content: '</s>', special: true }],
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
  model: { vocab: { '<0xE2>': 0, '<0x82>': 1, '</s>': 2, '<0xAC>': 3, '▁the': 4, '▁▁x': 5 } },
}

describe('a tokenizer with byte fallback', () => {
  const table = createTokenTable(sentencePiece, 'test-model')

  it('joins fallback bytes to characters and writes spaces', () => {
    const decoder = createStreamDecoder((id) => table.bytes(id))
    expect([4, 0, 1, 3, 5].map((id) => decoder.push(id))).toEqual([' the', '', '', '€', '  x'])
    expect(decoder.flush()).toBe('')
  })

  it('ends an unfinished character with U+FFFD', () => {
    const decoder = createStreamDecoder((id) => table.bytes(id))
    expect([0, 1].map((id) => decoder.push(id))).toEqual(['', ''])
    expect(decoder.flush()).toBe('\ufffd')
  })

  it('knows special tokens', () => {
    expect([table.isSpecial(2), table.isSpecial(4)]).toEqual([true, false])
  })
})

it('reads vocabularies that are lists', () => {
  const json = {
    decoder: { type: 'Metaspace' },
    model: {
      vocab: [
        ['▁a', -1],
        ['b', -2],
      ],
    },
  } // prettier-ignore
  const table = createTokenTable(json, 'test-model')
  expect(Buffer.concat([table.bytes(0), table.bytes(1)]).toString()).toBe(' ab')
})

it('refuses a decoder it would read wrongly, by name', () => {
  const json = { decoder: { type: 'WordPiece' }, model: { vocab: {} } }
  expect(() => createTokenTable(json, 'test-model')).toThrow('test-model has the decoder WordPiece')
  expect(() => createTokenTable({}, 'test-model')).toThrow(
    'tokenizer.json of the model test-model is not valid',
  )
})
