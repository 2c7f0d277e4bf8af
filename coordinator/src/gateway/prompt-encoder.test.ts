import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { loadTextModel, type TextModel } from '@kvasir/engine/text/text-model'
import { projectRoot } from '@kvasir/runtime/state-folder'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { hashCount, hashRange, NO_HASHES } from '../core/block-hashes.js'
import { createPromptEncoder, type PromptEncoder } from './prompt-encoder.js'

/** The real worker thread (built) with the bundled model. */
const folder = join(projectRoot(), 'models/skald')
let encoder: PromptEncoder
let model: TextModel

beforeAll(async () => {
  encoder = createPromptEncoder({ jobsMax: 3 })
  model = await loadTextModel(folder)
  encoder.add(model.digest, folder)
})
afterAll(() => encoder.close())

describe('the text worker', () => {
  test('tokenizes and templates as the main thread would', async () => {
    const text = 'Once upon a time, in a wood — déjà vu'
    expect(await encoder.encode(model.digest, { kind: 'text', text }, undefined)).toEqual({
      tokens: model.encode(text),
      blockHashes: NO_HASHES,
    })
    const messages = [{ role: 'user' as const, content: 'Hello there' }]
    expect(await encoder.encode(model.digest, { kind: 'chat', messages }, undefined)).toEqual({
      tokens: model.encodeChat(messages),
      blockHashes: NO_HASHES,
    })
  })

  test('names full blocks, for each tenant apart, of tokens as of the text that gives them', async () => {
    const text = 'Once upon a time there was a little fox who lived in a wood. '.repeat(4)
    const salt = Uint8Array.of(1, 2, 3)
    const ofText = await encoder.encode(model.digest, { kind: 'text', text }, salt)
    if (!('tokens' in ofText)) throw new Error('The text fits.')
    expect(hashCount(ofText.blockHashes)).toBe(Math.floor(ofText.tokens.length / 16))
    const prompt = { kind: 'tokens' as const, tokens: ofText.tokens }
    expect(await encoder.encode(model.digest, prompt, salt)).toEqual(ofText)
    const ofOther = await encoder.encode(model.digest, prompt, new Uint8Array())
    if (!('tokens' in ofOther)) throw new Error('The text fits.')
    expect(hashRange(ofOther.blockHashes, 0, 1)).not.toEqual(hashRange(ofText.blockHashes, 0, 1))
  })

  test('does not tokenize what cannot fit', async () => {
    const encoded = await encoder.encode(
      model.digest,
      { kind: 'text', text: 'x'.repeat(5_000_000) },
      undefined,
    )
    expect(encoded).toEqual({ tokensAtLeast: expect.any(Number) })
  })

  test('refuses what does not find room in its queue', async () => {
    const jobs = Array.from({ length: 5 }, () =>
      encoder.encode(model.digest, { kind: 'text', text: 'a' }, undefined),
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

  test('holds several models, those added while it runs included, and drops them', async () => {
    const dummy = await loadTextModel('dummy:llama-tiny')
    const prompt = { kind: 'text' as const, text: 'Hello there' }
    await expect(encoder.encode(dummy.digest, prompt, undefined)).rejects.toThrow('just been unloaded')
    encoder.add(dummy.digest, 'dummy:llama-tiny')
    const [ofDummy, ofSkald] = await Promise.all([
      encoder.encode(dummy.digest, prompt, undefined),
      encoder.encode(model.digest, prompt, undefined),
    ])
    expect(ofDummy).toEqual({ tokens: dummy.encode(prompt.text), blockHashes: NO_HASHES })
    expect(ofSkald).toEqual({ tokens: model.encode(prompt.text), blockHashes: NO_HASHES })
    encoder.drop(dummy.digest)
    await expect(encoder.encode(dummy.digest, prompt, undefined)).rejects.toMatchObject({
      code: 'unavailable',
    })
  })

  test('fails what waits when it closes', async () => {
    const other = createPromptEncoder({ jobsMax: 3 })
    other.add(model.digest, folder)
    const job = other.encode(model.digest, { kind: 'text', text: 'a' }, undefined)
    await Promise.all([expect(job).rejects.toThrow('Try again'), other.close()])
  })

  test('survives a chat template that never ends, and serves the others', async () => {
    const endless = mkdtempSync(join(tmpdir(), 'kvasir-endless-'))
    for (const file of ['config.json', 'tokenizer.json', 'tokenizer_config.json']) {
      cpSync(join(folder, file), join(endless, file))
    }
    const loop = '{% for a in range(100000) %}'
    writeFileSync(join(endless, 'chat_template.jinja'), `${loop}${loop}{% endfor %}{% endfor %}`)
    const hanging = createPromptEncoder({ jobsMax: 2, jobMs: 200, silenceMs: 2_000 })
    hanging.add(model.digest, folder)
    hanging.add('endless', { folder: endless, name: 'endless', digest: 'endless' })
    const messages = [{ role: 'user' as const, content: 'Hello' }]
    const stuck = hanging.encode('endless', { kind: 'chat', messages }, undefined)
    await expect(stuck).rejects.toMatchObject({ code: 'deadline' })
    const encodes = () => hanging.encode(model.digest, { kind: 'text', text: 'a' }, undefined)
    const isServed = () =>
      encodes().then(
        () => true,
        () => false,
      )
    expect(await isServed()).toBe(false)
    await expect.poll(isServed, { timeout: 20_000, interval: 100 }).toBe(true)
    await hanging.close()
    rmSync(endless, { recursive: true })
  })

  test('tells why when a model cannot be loaded, and serves the others', async () => {
    const broken = createPromptEncoder({ jobsMax: 3 })
    broken.add(model.digest, folder)
    broken.add('missing', '/no/such/model')
    const prompt = { kind: 'text' as const, text: 'a' }
    await expect(broken.encode('missing', prompt, undefined)).rejects.toMatchObject({ code: 'not_found' })
    expect(await broken.encode(model.digest, prompt, undefined)).toHaveProperty('tokens')
    await broken.close()
  })
})
