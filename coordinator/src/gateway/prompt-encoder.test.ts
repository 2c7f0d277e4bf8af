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
    expect(await encoder.encode('skald', { kind: 'text', text })).toEqual({ tokens: model.encode(text) })
    const messages = [{ role: 'user' as const, content: 'Hello there' }]
    expect(await encoder.encode('skald', { kind: 'chat', messages })).toEqual({
      tokens: model.encodeChat(messages),
    })
  })

  test('does not tokenize what cannot fit', async () => {
    const encoded = await encoder.encode('skald', { kind: 'text', text: 'x'.repeat(5_000_000) })
    expect(encoded).toEqual({ tokensAtLeast: expect.any(Number) })
  })

  test('refuses what does not find room in its queue', async () => {
    const jobs = Array.from({ length: 5 }, () => encoder.encode('skald', { kind: 'text', text: 'a' }))
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
    const job = other.encode('skald', { kind: 'text', text: 'a' })
    await Promise.all([expect(job).rejects.toThrow('Try again'), other.close()])
  })

  test('tells why when its model cannot be loaded', async () => {
    const broken = createPromptEncoder({ models: ['/no/such/model'], jobsMax: 3 })
    await expect(broken.encode('x', { kind: 'text', text: 'a' })).rejects.toThrow(/worker was lost/)
    await broken.close()
  })
})
