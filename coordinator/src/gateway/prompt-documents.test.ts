import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { blockOf, cutAfter, fitDocuments, type PromptDocument } from './prompt-documents.js'

const wolf = { title: 'The Wolf', text: 'A wolf met a lamb.' }
const fox = { title: '', text: 'A fox saw grapes.' }

/** Three characters a token, and 10 tokens for the question. */
const tokensOf = async (text: string) => Math.ceil(text.length / 3) + 10

describe('the text before the question', () => {
  test('numbers the documents, best first, each under its title', async () => {
    expect(await fitDocuments([wolf, fox], 1_000, tokensOf)).toEqual({
      text: 'Documents:\n\n[1] The Wolf\nA wolf met a lamb.\n\n[2] A fox saw grapes.\n\n',
      count: 2,
      isCut: false,
    })
  })

  test('is cut at a word where the context ends', async () => {
    const long = { title: 'Long', text: 'word '.repeat(500) }
    const { text, count, isCut } = await fitDocuments([wolf, long, fox], 300, tokensOf)
    expect({ count, isCut }).toEqual({ count: 2, isCut: true })
    expect(text).toMatch(/\[2\] Long\nword( word)*\n\n$/)
    expect(await tokensOf(text)).toBeLessThanOrEqual(300)
    expect(await tokensOf(text)).toBeGreaterThan(280)
  })

  test('is nothing where there are no documents, or no room', async () => {
    const nothing = { text: '', count: 0, isCut: false }
    expect(await fitDocuments([], 1_000, tokensOf)).toEqual(nothing)
    expect(await fitDocuments([wolf], 10, tokensOf)).toEqual(nothing)
    expect(await fitDocuments([wolf], 5, tokensOf)).toEqual(nothing)
  })

  test('never holds a heading alone, nor half a character', () => {
    expect(cutAfter([blockOf(wolf)], 9)).toMatchObject({ count: 0 })
    expect(cutAfter([blockOf(wolf)], 10)).toMatchObject({
      text: 'Documents:\n\n[1] The Wolf\nA\n\n',
      isCut: true,
    })
    expect(cutAfter(['𝒳𝒳𝒳'], 3)).toMatchObject({ text: 'Documents:\n\n[1] 𝒳\n\n', isCut: true })
  })

  test('is found in a few trials, however long the documents are', async () => {
    let trials = 0
    const huge = { title: 'Huge', text: 'once upon a time '.repeat(500_000) }
    const { text } = await fitDocuments([huge], 4_000, async (text) => {
      trials += 1
      return tokensOf(text)
    })
    expect(trials).toBeLessThan(8)
    expect(await tokensOf(text)).toBeGreaterThan(3_900)
  })
})

test('whatever the documents and the tokenizer: it fits, and nothing is missing where all fits', async () => {
  const documentArbitrary: fc.Arbitrary<PromptDocument> = fc.record({
    title: fc.string({ maxLength: 20 }),
    text: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 300 }),
  })
  await fc.assert(
    fc.asyncProperty(
      fc.array(documentArbitrary, { maxLength: 6 }),
      fc.integer({ min: 1, max: 400 }),
      fc.constantFrom(1, 3, 5),
      async (documents, tokensMax, charactersPerToken) => {
        const measure = async (text: string) => Math.ceil(text.length / charactersPerToken) + 10
        const { text, count, isCut } = await fitDocuments(documents, tokensMax, measure)
        expect(Buffer.from(text).toString()).toBe(text)
        if (count > 0) expect(await measure(text)).toBeLessThanOrEqual(tokensMax)
        if (documents.length === 0) return
        const whole = cutAfter(documents.map(blockOf), Number.POSITIVE_INFINITY)
        if ((await measure(whole.text)) <= tokensMax)
          expect({ text, count }).toEqual({ text: whole.text, count: whole.count })
        else expect(isCut || count < whole.count).toBe(true)
      },
    ),
  )
})
