import { createStreamDecoder } from '@kvasir/engine/text/stream-decoder'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { byteIds, letterModel, wordId } from './testing/letter-model.js'
import { testToken } from './testing/scripted-service.js'
import { type PlacedToken, TextAssembler } from './text-assembler.js'

const model = letterModel()

function assemble(batches: number[][], stops: string[]) {
  const assembler = new TextAssembler(model.decoder(), stops, true)
  const texts: string[] = []
  const tokens: PlacedToken[] = []
  let index = 0
  for (const ids of batches) {
    const piece = assembler.push(ids.map((id) => testToken(index++, id)))
    texts.push(piece.text)
    tokens.push(...piece.tokens)
  }
  const rest = assembler.finish()
  texts.push(rest.text)
  tokens.push(...rest.tokens)
  return { assembler, texts, tokens, text: texts.join('') }
}

describe('TextAssembler', () => {
  test('cuts exactly before a stop string that spans three tokens', () => {
    const { text, tokens, assembler } = assemble(
      [[wordId('Hello')], [wordId(' world'), wordId('ST')], [wordId('OP')], [wordId('!')]],
      [' worldSTOP'],
    )
    expect(text).toBe('Hello')
    expect(tokens.map(({ token }) => token.id)).toEqual([wordId('Hello')])
    expect(assembler.isStopped).toBe(true)
    expect(assembler.completionTokens).toBe(4)
  })

  test('a token of which a part is in the answer comes out with the whole of it', () => {
    const { text, tokens } = assemble([[wordId('Hello')], [wordId(' world')]], ['lo w'])
    expect(text).toBe('Hel')
    expect(tokens.map(({ token }) => token.id)).toEqual([wordId('Hello')])
  })

  test('emits what looked like a stop string when it turns out to be none', () => {
    const { texts, text, tokens } = assemble([[wordId('ST')], [wordId('!')], [wordId('ST')]], ['STOP'])
    expect(texts).toEqual(['', 'ST!', '', 'ST'])
    expect(text).toBe('ST!ST')
    expect(tokens.map(({ textOffset }) => textOffset)).toEqual([0, 2, 3])
  })

  test('never emits half a character, and its tokens come with its last byte', () => {
    const bytes = byteIds('é😀')
    const assembler = new TextAssembler(model.decoder(), [], true)
    const pieces = bytes.map((id, index) => assembler.push([testToken(index, id)]))
    expect(pieces.map(({ text }) => text)).toEqual(['', 'é', '', '', '', '😀'])
    expect(pieces.map(({ tokens }) => tokens.length)).toEqual([0, 2, 0, 0, 0, 4])
  })

  test('an unfinished character at the end becomes a replacement character', () => {
    const { text, tokens } = assemble([[...byteIds('a'), 0xf0, 0x9f]], [])
    expect(text).toBe('a\u{FFFD}')
    expect(tokens).toHaveLength(3)
  })

  test('whatever the cut, the text is the whole text up to the first stop, and tokens cover it', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom('a', 'b', 'é', '😀'), maxLength: 20 }),
        fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'é'), minLength: 1, maxLength: 3 }), {
          maxLength: 3,
        }),
        fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1 }),
        (whole, stops, cuts) => {
          const ids = byteIds(whole)
          const batches: number[][] = []
          for (let at = 0, i = 0; at < ids.length; i++) {
            const size = cuts[i % cuts.length] ?? 1
            batches.push(ids.slice(at, at + size))
            at += size
          }
          const { text, tokens } = assemble(batches, stops)
          const ends = stops.map((stop) => whole.indexOf(stop)).filter((at) => at >= 0)
          if (ends.length === 0) expect(text).toBe(whole)
          else
            expect(whole.startsWith(text) && stops.some((stop) => whole.startsWith(text + stop))).toBe(true)
          expect(stops.some((stop) => text.includes(stop))).toBe(false)
          const decoder = createStreamDecoder(model.tokenBytes)
          expect(tokens.map(({ token }) => decoder.push(token.id)).join('')).toBe(text)
        },
      ),
      { numRuns: 300 },
    )
  })
})
