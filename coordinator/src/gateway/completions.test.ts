import OpenAI from 'openai'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { hashCount, NO_HASHES } from '../core/block-hashes.js'
import { byteIds, wordId } from './testing/letter-model.js'
import { scriptedService } from './testing/scripted-service.js'
import { type TestGateway, testGateway } from './testing/test-gateway.js'

let gateway: TestGateway
let client: OpenAI

beforeAll(async () => {
  gateway = await testGateway()
  client = new OpenAI({ baseURL: `${await gateway.serve()}/v1`, apiKey: 'unused', maxRetries: 0 })
})
afterAll(async () => {
  await gateway.close()
})
beforeEach(() => {
  gateway.service.onSubmit = () => {}
})

/** Answers the next requests with these events of token ids. */
function answer(batches: number[][], reason: 'stop' | 'length' = 'length') {
  gateway.service.onSubmit = (generation) => {
    for (const batch of batches) generation.tokens(...batch)
    generation.finish(reason)
  }
}

function lastRequest() {
  const request = gateway.service.submitted.at(-1)?.request
  if (request === undefined) throw new Error('nothing was submitted')
  return request
}

const user = { role: 'user' as const, content: 'hi' }
const HELLO = [[wordId('Hello')], [wordId(' world')], [wordId('!')]]

describe('the openai client, chat', () => {
  test('a whole answer with usage', async () => {
    answer(HELLO, 'stop')
    const { data, response } = await client.chat.completions
      .create({ model: 'letters', messages: [user], seed: 7, temperature: 0, max_tokens: 20 })
      .withResponse()
    expect(data).toMatchObject({
      object: 'chat.completion',
      model: 'letters',
      choices: [
        {
          index: 0,
          finish_reason: 'stop',
          logprobs: null,
          message: { role: 'assistant', content: 'Hello world!' },
        },
      ],
      usage: {
        prompt_tokens: 8,
        completion_tokens: 3,
        total_tokens: 11,
        prompt_tokens_details: { cached_tokens: 0 },
      },
      kvasir: { numerics_changed: false },
    })
    expect(data.id).toBe(lastRequest().requestId.replace('req-', 'chatcmpl-'))
    expect(response.headers.get('x-kvasir-request-id')).toBe(lastRequest().requestId)
    expect(data).toHaveProperty('_request_id', lastRequest().requestId)
    expect(lastRequest()).toMatchObject({
      model: 'letters',
      promptTokens: byteIds('user:hi\n'),
      maxTokens: 20,
      sampling: {
        temperature: 0,
        topP: 1,
        topK: 0,
        seed: 7n,
        stopTokens: [0],
        logprobs: false,
        topLogprobs: 0,
      },
    })
    expect(lastRequest().tenantSalt).toHaveLength(0)
  })

  test('a stream, with usage at its end', async () => {
    answer(HELLO)
    const stream = await client.chat.completions.create({
      model: 'letters',
      messages: [{ role: 'developer', content: 'be' }, user],
      stream: true,
      stream_options: { include_usage: true },
    })
    const chunks = []
    for await (const chunk of stream) chunks.push(chunk)
    expect(chunks[0]?.choices[0]?.delta).toMatchObject({ role: 'assistant', content: '' })
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe('Hello world!')
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe('length')
    expect(chunks.at(-2)?.usage).toBeNull()
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 3 } })
    expect(lastRequest().promptTokens).toEqual(byteIds('system:be\nuser:hi\n'))
    // All of the context that the prompt leaves.
    expect(lastRequest().maxTokens).toBe(100 - lastRequest().promptTokens.length)
  })

  test('the helper of the client collects a stream', async () => {
    answer(HELLO)
    const stream = client.chat.completions.stream({ model: 'letters', messages: [user] })
    const completion = await stream.finalChatCompletion()
    expect(completion.choices[0]?.message.content).toBe('Hello world!')
  })

  test('an answer can be sent back as it came', async () => {
    answer(HELLO)
    const first = await client.chat.completions.create({ model: 'letters', messages: [user] })
    const message = first.choices[0]?.message
    if (message === undefined) throw new Error('no answer')
    await client.chat.completions.create({ model: 'letters', messages: [user, message, user] })
    expect(lastRequest().promptTokens).toEqual(byteIds('user:hi\nassistant:Hello world!\nuser:hi\n'))
  })

  test('text parts are joined', async () => {
    answer(HELLO)
    const parts = [
      { type: 'text' as const, text: 'a' },
      { type: 'text' as const, text: 'b' },
    ]
    await client.chat.completions.create({ model: 'letters', messages: [{ role: 'user', content: parts }] })
    expect(lastRequest().promptTokens).toEqual(byteIds('user:ab\n'))
  })

  test('log probabilities, whole and streamed alike', async () => {
    answer([[...byteIds('é')], [wordId('!')]])
    const wish = { model: 'letters', messages: [user], logprobs: true, top_logprobs: 1 }
    const whole = await client.chat.completions.create(wish)
    const content = whole.choices[0]?.logprobs?.content
    expect(content).toEqual([
      {
        token: '\u{FFFD}',
        logprob: -0.5,
        bytes: [0xc3],
        top_logprobs: [{ token: '\u{FFFD}', logprob: -0.5, bytes: [0xc3] }],
      },
      {
        token: '\u{FFFD}',
        logprob: -1.5,
        bytes: [0xa9],
        top_logprobs: [{ token: '\u{FFFD}', logprob: -1.5, bytes: [0xa9] }],
      },
      { token: '!', logprob: -2.5, bytes: [33], top_logprobs: [{ token: '!', logprob: -2.5, bytes: [33] }] },
    ])
    expect(lastRequest().sampling).toMatchObject({ logprobs: true, topLogprobs: 1 })
    const streamed = []
    for await (const chunk of await client.chat.completions.create({ ...wish, stream: true })) {
      streamed.push(...(chunk.choices[0]?.logprobs?.content ?? []))
    }
    expect(streamed).toEqual(content)
  })

  test('neutral values and fields without effect are accepted', async () => {
    answer(HELLO)
    await client.chat.completions.create({
      model: 'letters',
      messages: [user],
      n: 1,
      presence_penalty: 0,
      frequency_penalty: 0,
      logit_bias: {},
      response_format: { type: 'text' },
      tools: [],
      store: false,
      user: 'someone',
      metadata: { a: 'b' },
      stop: null,
      top_p: null,
    })
    expect(lastRequest().sampling.topP).toBe(1)
  })

  test('a seed below zero, and none', async () => {
    answer(HELLO)
    await client.chat.completions.create({ model: 'letters', messages: [user], seed: -1 })
    expect(lastRequest().sampling.seed).toBe(2n ** 64n - 1n)
    await client.chat.completions.create({ model: 'letters', messages: [user] })
    const first = lastRequest().sampling.seed
    await client.chat.completions.create({ model: 'letters', messages: [user] })
    expect(lastRequest().sampling.seed).not.toBe(first)
  })
})

describe('the openai client, completions', () => {
  test('a whole answer with log probabilities in the older shape', async () => {
    answer(HELLO)
    const completion = await client.completions.create({ model: 'letters', prompt: 'hi', logprobs: 2 })
    expect(completion).toMatchObject({
      object: 'text_completion',
      choices: [
        {
          text: 'Hello world!',
          finish_reason: 'length',
          logprobs: {
            tokens: ['Hello', ' world', '!'],
            token_logprobs: [-0.5, -1.5, -2.5],
            top_logprobs: [
              { Hello: -0.5, A: -9 },
              { ' world': -1.5, A: -9 },
              { '!': -2.5, A: -9 },
            ],
            text_offset: [0, 5, 11],
          },
        },
      ],
    })
    expect(lastRequest()).toMatchObject({ promptTokens: byteIds('hi'), maxTokens: 16 })
  })

  test('a stream', async () => {
    answer(HELLO)
    let text = ''
    const reasons = []
    for await (const chunk of await client.completions.create({
      model: 'letters',
      prompt: ['hi'],
      stream: true,
    })) {
      text += chunk.choices[0]?.text ?? ''
      reasons.push(chunk.choices[0]?.finish_reason)
    }
    expect(text).toBe('Hello world!')
    expect(reasons).toEqual([null, null, null, 'length'])
  })

  test('a prompt of token ids', async () => {
    answer(HELLO)
    await client.completions.create({ model: 'letters', prompt: [1, 2, 3], max_tokens: 500 })
    expect(lastRequest()).toMatchObject({ promptTokens: [1, 2, 3], maxTokens: 97 })
  })
})

describe('stop strings', () => {
  test('cut the text, cancel the generation and count what was generated', async () => {
    gateway.service.onSubmit = (generation) => {
      generation.tokens(wordId('Hello'))
      generation.tokens(wordId('ST'))
      generation.tokens(wordId('OP'), wordId('!'))
    }
    const completion = await client.completions.create({
      model: 'letters',
      prompt: 'hi',
      stop: 'STOP',
      logprobs: 0,
    })
    expect(completion.choices[0]).toMatchObject({
      text: 'Hello',
      finish_reason: 'stop',
      logprobs: { tokens: ['Hello'], top_logprobs: null },
    })
    expect(completion.usage?.completion_tokens).toBe(3)
    expect(await gateway.service.submitted.at(-1)?.cancelled).toBe('stop-string')
  })

  test('never appear in a stream, and what looked like one comes at the end', async () => {
    answer([[wordId('Hello')], [wordId('ST')]])
    let text = ''
    const stream = client.chat.completions.stream({
      model: 'letters',
      messages: [user],
      stop: ['STOP', 'END'],
    })
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ''
    expect(text).toBe('HelloST')
  })
})

describe('extensions', () => {
  test('cache_prompt: the blocks of a prompt are named, or nothing is reused', async () => {
    answer(HELLO)
    const ask = async (prompt: string | number[], rest = {}) => {
      const payload = { model: 'letters', prompt, ...rest }
      await gateway.app.inject({ method: 'POST', url: '/v1/completions', payload })
      return lastRequest()
    }
    const text = 'x'.repeat(40)
    const named = await ask(text)
    expect(named.reusePrefix).toBe(true)
    expect(hashCount(named.blockHashes)).toBe(2)
    expect((await ask(byteIds(text))).blockHashes).toEqual(named.blockHashes)
    expect(await ask(text, { cache_prompt: false })).toMatchObject({
      reusePrefix: false,
      blockHashes: NO_HASHES,
    })
  })

  test('ignore_eos, top_k and return_token_ids', async () => {
    answer(HELLO)
    const body = { model: 'letters', prompt: 'hi', ignore_eos: true, top_k: 5, return_token_ids: true }
    const whole = await gateway.app.inject({ method: 'POST', url: '/v1/completions', payload: body })
    expect(whole.json().choices[0].token_ids).toEqual(HELLO.flat())
    expect(lastRequest().sampling).toMatchObject({ stopTokens: [], topK: 5 })
    const streamed = await gateway.app.inject({
      method: 'POST',
      url: '/v1/completions',
      payload: { ...body, stream: true },
    })
    const chunks = eventsOf(streamed.body).map((event) => event.choices[0].token_ids ?? [])
    expect(chunks.flat()).toEqual(HELLO.flat())
  })

  test('an answer names its request and says when numerics changed', async () => {
    const service = scriptedService({ numericsChanged: true, cachedTokens: 1 })
    service.onSubmit = (generation) => {
      generation.tokens(wordId('!'))
      generation.finish()
    }
    const changed = await testGateway({ service })
    const response = await changed.app.inject({
      method: 'POST',
      url: '/v1/completions',
      payload: { model: 'letters', prompt: 'a' },
    })
    expect(response.json()).toMatchObject({
      kvasir: { request_id: response.headers['x-kvasir-request-id'], trace_id: '', numerics_changed: true },
      usage: { prompt_tokens_details: { cached_tokens: 1 } },
    })
    await changed.close()
  })
})

describe('streams on the wire', () => {
  test('no half character in any chunk, and the end mark', async () => {
    answer(byteIds('a😀é').map((id) => [id]))
    const response = await gateway.app.inject({
      method: 'POST',
      url: '/v1/completions',
      payload: { model: 'letters', prompt: 'a', stream: true },
    })
    expect(response.headers['content-type']).toBe('text/event-stream; charset=utf-8')
    expect(response.body.endsWith('data: [DONE]\n\n')).toBe(true)
    expect(eventsOf(response.body).map((event) => event.choices[0].text)).toEqual(['a', '😀', 'é', ''])
  })
})

function eventsOf(body: string) {
  return body
    .split('\n\n')
    .filter((event) => event.startsWith('data: {'))
    .map((event) => JSON.parse(event.slice(6)))
}
