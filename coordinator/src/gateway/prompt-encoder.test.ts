import { join } from 'node:path'
import { loadTextModel, type TextModel } from '@kvasir/engine/text/text-model'
import { projectRoot } from '@kvasir/runtime/state-folder'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createPromptEncoder, type PromptEncoder } from './prompt-encoder.js'

/** The real worker thread (built) with the bundled model. */
const folder = join(projectRoot(), 'models/skald')
let encoder: PromptEncoder
let model: TextModel

beforeAll(async () => {
  encoder = createPromptEncoder({ models: [folder], jobsMax: 3 })
  model = await loadTextModel(folder)
})
afterAll(() => encoder.close())

describe('the text worker', () => {
  test('tokenizes and templates as the main thread would', async () => {
    const text = 'Once upon a time, in a wood — déjà vu'
    expect(await encoder.encode('skald', { kind: 'text', text }, undefined)).toEqual({
      tokens: model.encode(text),
      blockHashes: [],
    })
    const messages = [{ role: 'user' as const, content: 'Hello there' }]
    expect(await encoder.encode('skald', { kind: 'chat', messages }, undefined)).toEqual({
      tokens: model.encodeChat(messages),
      blockHashes: [],
    })
  })

  test('names full blocks, for each tenant apart, of tokens as of the text that gives them', async () => {
    const text = 'Once upon a time there was a little fox who lived in a wood. '.repeat(4)
    const salt = Uint8Array.of(1, 2, 3)
    const ofText = await encoder.encode('skald', { kind: 'text', text }, salt)
    if (!('tokens' in ofText)) throw new Error('The text fits.')
    expect(ofText.blockHashes).toHaveLength(Math.floor(ofText.tokens.length / 16))
    expect(ofText.blockHashes[0]).toMatch(/^[0-9a-f]{32}$/)
    const prompt = { kind: 'tokens' as const, tokens: ofText.tokens }
    expect(await encoder.encode('skald', prompt, salt)).toEqual(ofText)
    const ofOther = await encoder.encode('skald', prompt, new Uint8Array())
    if (!('tokens' in ofOther)) throw new Error('The text fits.')
    expect(ofOther.blockHashes[0]).not.toBe(ofText.blockHashes[0])
  })

  test('does not tokenize what cannot fit', async () => {
    const encoded = await encoder.encode('skald', { kind: 'text', text: 'x'.repeat(5_000_000) }, undefined)
    expect(encoded).toEqual({ tokensAtLeast: expect.any(Number) })
  })

  test('refuses what does not find room in its queue', async () => {
    const jobs = Array.from({ length: 5 }, () =>
      encoder.encode('skald', { kind: 'text', text: 'a' }, undefined),
    )
    const results = await Promise.allSettled(jobs)
    expect(results.map(({ status }) => status)).toEqual([
      'fulfilled',
      'fulfilled',
      'fulfilled',
      'rejected',
      'rejected',
    ])
  })

  test('fails what waits when it closes', async () => {
    const other = createPromptEncoder({ models: [folder], jobsMax: 3 })
    const job = other.encode('skald', { kind: 'text', text: 'a' }, undefined)
    await Promise.all([expect(job).rejects.toThrow('Try again'), other.close()])
  })

  test('tells why when its model cannot be loaded', async () => {
    const broken = createPromptEncoder({ models: ['/no/such/model'], jobsMax: 3 })
    await expect(broken.encode('x', { kind: 'text', text: 'a' }, undefined)).rejects.toThrow(
      /worker was lost/,
    )
    await broken.close()
  })
})
