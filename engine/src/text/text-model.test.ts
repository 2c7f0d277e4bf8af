import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { loadTextModel, type TextModel } from './text-model.js'

interface GoldenCase {
  prompt: string
  promptIds: number[]
  greedyIds: number[]
  greedyText: string
}
const goldenUrl = new URL('../../../models/skald/golden.json', import.meta.url)
const golden: { cases: GoldenCase[] } = JSON.parse(readFileSync(goldenUrl, 'utf8'))

function decodeAll(model: TextModel, tokens: readonly number[]): string {
  const decoder = model.decoder()
  return tokens.map((token) => decoder.push(token)).join('') + decoder.flush()
}

let skald: TextModel
beforeAll(async () => {
  skald = await loadTextModel('skald')
})

describe('skald', () => {
  it('encodes the golden prompts to the golden tokens and reads the golden answers', () => {
    expect(golden.cases).toHaveLength(6)
    for (const { prompt, promptIds, greedyIds, greedyText } of golden.cases) {
      expect(skald.encode(prompt)).toEqual(promptIds)
      expect(decodeAll(skald, greedyIds)).toBe(greedyText)
    }
  })

  it('streams any text back exactly, never half a character', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => {
        const decoder = skald.decoder()
        let out = ''
        for (const token of skald.encode(text, { addSpecialTokens: false })) {
          const piece = decoder.push(token)
          expect(piece).not.toMatch(/\p{Surrogate}/u)
          out += piece
          expect(text.startsWith(out)).toBe(true)
        }
        expect(out + decoder.flush()).toBe(text)
      }),
      { numRuns: 150 },
    )
  })

  it('streams any tokens to the same text as one reading of all their bytes', () => {
    const token = fc.integer({ min: 4, max: skald.vocabularySize - 1 })
    fc.assert(
      fc.property(fc.array(token, { maxLength: 40 }), (tokens) => {
        const bytes = Buffer.concat(tokens.map((id) => skald.tokenBytes(id)))
        expect(decodeAll(skald, tokens)).toBe(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes))
      }),
      { numRuns: 200 },
    )
  })

  it('renders chats by its template and begins them with the begin token', () => {
    expect(skald.hasChatTemplate).toBe(true)
    const messages = [
      { role: 'system', content: ' A tale. ' },
      { role: 'user', content: 'Once upon a time' },
    ]
    expect(skald.renderChat(messages)).toBe('A tale.\nOnce upon a time')
    expect(skald.encodeChat(messages)).toEqual(skald.encode('A tale.\nOnce upon a time'))
    expect(skald.encodeChat(messages)[0]).toBe(0)
  })

  it('tells its limits and shows special tokens by name but keeps them out of answers', () => {
    expect(skald).toMatchObject({ name: 'skald', contextTokensMax: 4096, vocabularySize: 2048 })
    expect(skald.stopTokens).toEqual([1])
    expect(skald.tokenText(1)).toBe('<|end|>')
    expect(decodeAll(skald, [...skald.encode('Hi.', { addSpecialTokens: false }), 1, 2])).toBe('Hi.')
    expect(skald.tokenBytes(999_999)).toHaveLength(0)
  })

  it('can name the bytes of a token that is no whole character', () => {
    const tokens = skald.encode('😀', { addSpecialTokens: false })
    expect(tokens.length).toBeGreaterThan(1)
    expect(skald.tokenText(tokens[0] ?? 0)).toContain('\ufffd')
    expect(Buffer.concat(tokens.map((id) => skald.tokenBytes(id))).toString('utf8')).toBe('😀')
  })
})

describe('files without weights', () => {
  it('give the same text model, under the name and digest of the whole', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kvasir-text-'))
    try {
      const files = ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']
      for (const file of files) {
        copyFileSync(
          fileURLToPath(new URL(`../../../models/skald/${file}`, import.meta.url)),
          join(folder, file),
        )
      }
      const text = await loadTextModel({ folder, name: 'tale', digest: skald.digest })
      expect(text).toMatchObject({ name: 'tale', digest: skald.digest, contextTokensMax: 4096 })
      expect(text.stopTokens).toEqual(skald.stopTokens)
      expect(text.encode('Once upon a time')).toEqual(skald.encode('Once upon a time'))
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

describe('a generated model', () => {
  it('encodes any text as bytes, reads any token, and refuses chat by name', async () => {
    const dummy = await loadTextModel('dummy:llama-0.5b')
    const text = 'naïve 日本 😀'
    const [begin, ...tokens] = dummy.encode(text)
    expect(begin).toBe(256)
    expect(decodeAll(dummy, tokens)).toBe(text)
    expect(dummy.tokenText(31_999)).toMatch(/^ [a-z]+$/)
    expect(decodeAll(dummy, [256, 300, 31_999])).toMatch(/^ [a-z]+ [a-z]+$/)
    expect(dummy.hasChatTemplate).toBe(false)
    expect(() => dummy.encodeChat([{ role: 'user', content: 'hi' }])).toThrow('dummy:llama-0.5b has no chat')
  })
})
