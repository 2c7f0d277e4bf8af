import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type TestGateway, testGateway } from './testing/test-gateway.js'

let gateway: TestGateway

beforeAll(async () => {
  gateway = await testGateway()
})
afterAll(async () => {
  await gateway.close()
})

const chat = { model: 'letters', messages: [{ role: 'user', content: 'hi' }] }
const text = { model: 'letters', prompt: 'hi' }

async function post(path: string, payload: string | Buffer | object, contentType = 'application/json') {
  return gateway.app.inject({
    method: 'POST',
    url: path,
    headers: { 'content-type': contentType },
    payload: typeof payload === 'string' || Buffer.isBuffer(payload) ? payload : JSON.stringify(payload),
  })
}

type Case = [what: string, body: unknown, param: string | null, code: string, says: RegExp]

const CHAT: Case[] = [
  ['a body that is no object', [1], null, 'invalid_type', /must be a JSON object/],
  ['no model', { messages: chat.messages }, 'model', 'missing_required_parameter', /"model" is missing/],
  ['no messages', { model: 'letters' }, 'messages', 'missing_required_parameter', /"messages" is missing/],
  ['an empty list of messages', { ...chat, messages: [] }, 'messages', 'invalid_value', /messages/],
  [
    'only empty messages',
    { ...chat, messages: [{ role: 'user', content: '' }] },
    'messages',
    'empty_prompt',
    /empty/,
  ],
  [
    'an unknown role',
    { ...chat, messages: [{ role: 'wizard', content: 'hi' }] },
    'messages[0].role',
    'invalid_value',
    /expected one of/,
  ],
  [
    'a role of tools',
    { ...chat, messages: [{ role: 'tool', content: 'hi' }] },
    'messages[0].role',
    'invalid_value',
    /expected one of/,
  ],
  [
    'an image',
    { ...chat, messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] },
    'messages[0].content',
    'invalid_value',
    /parts of type "text"/,
  ],
  [
    'a content of wrong type',
    { ...chat, messages: [{ role: 'user', content: 5 }] },
    'messages[0].content',
    'invalid_value',
    /expected a string/,
  ],
  [
    'a name in a message',
    { ...chat, messages: [{ role: 'user', content: 'a', name: 'bob' }] },
    'messages[0].name',
    'unsupported_parameter',
    /not supported/,
  ],
  [
    'half a surrogate pair',
    { ...chat, messages: [{ role: 'user', content: 'a\ud800' }] },
    'messages[0].content',
    'invalid_value',
    /expected/,
  ],
  [
    'a temperature of wrong type',
    { ...chat, temperature: 'hot' },
    'temperature',
    'invalid_type',
    /expected number/,
  ],
  ['a temperature out of range', { ...chat, temperature: 3 }, 'temperature', 'invalid_value', /<=2/],
  ['a top_p of 0', { ...chat, top_p: 0 }, 'top_p', 'invalid_value', />0/],
  ['a fraction for top_k', { ...chat, top_k: 1.5 }, 'top_k', 'invalid_type', /expected int/],
  ['max_tokens 0', { ...chat, max_tokens: 0 }, 'max_tokens', 'invalid_value', />=1/],
  [
    'max_tokens below 0',
    { ...chat, max_completion_tokens: -5 },
    'max_completion_tokens',
    'invalid_value',
    />=1/,
  ],
  [
    'two different limits',
    { ...chat, max_tokens: 1, max_completion_tokens: 2 },
    'max_completion_tokens',
    'invalid_value',
    /differ/,
  ],
  ['five stop strings', { ...chat, stop: ['a', 'b', 'c', 'd', 'e'] }, 'stop', 'invalid_value', /at most 4/],
  ['an empty stop string', { ...chat, stop: [''] }, 'stop[0]', 'invalid_value', />=1 characters/],
  ['n above 1', { ...chat, n: 2 }, 'n', 'unsupported_parameter', /"n" with this value is not supported/],
  ['tools', { ...chat, tools: [{ type: 'function' }] }, 'tools', 'unsupported_parameter', /tools/],
  [
    'JSON mode',
    { ...chat, response_format: { type: 'json_object' } },
    'response_format',
    'unsupported_parameter',
    /response_format/,
  ],
  [
    'a penalty',
    { ...chat, presence_penalty: 0.5 },
    'presence_penalty',
    'unsupported_parameter',
    /presence_penalty/,
  ],
  ['a bias', { ...chat, logit_bias: { 5: 1 } }, 'logit_bias', 'unsupported_parameter', /logit_bias/],
  ['storing', { ...chat, store: true }, 'store', 'unsupported_parameter', /store/],
  [
    'an unknown field',
    { ...chat, frobnicate: 1 },
    'frobnicate',
    'unknown_parameter',
    /Unknown field "frobnicate"/,
  ],
  ['a field called __proto__', JSON.parse('{"__proto__": 1}'), '__proto__', 'unknown_parameter', /__proto__/],
  [
    'alternatives without logprobs',
    { ...chat, top_logprobs: 2 },
    'top_logprobs',
    'invalid_value',
    /needs "logprobs"/,
  ],
  ['21 alternatives', { ...chat, logprobs: true, top_logprobs: 21 }, 'top_logprobs', 'invalid_value', /<=20/],
  [
    'stream options without stream',
    { ...chat, stream_options: {} },
    'stream_options',
    'invalid_value',
    /needs "stream"/,
  ],
  [
    'an unknown stream option',
    { ...chat, stream: true, stream_options: { x: 1 } },
    'stream_options.x',
    'unsupported_parameter',
    /stream_options.x/,
  ],
  [
    'a prompt longer than the context',
    { ...chat, messages: [{ role: 'user', content: 'x'.repeat(200) }] },
    'messages',
    'context_length_exceeded',
    /context is 100 tokens.*206/,
  ],
  [
    'a model without chat template',
    { ...chat, model: 'plain' },
    'model',
    'chat_template_missing',
    /no chat template.*\/v1\/completions/,
  ],
]

const COMPLETION: Case[] = [
  ['no prompt', { model: 'letters' }, 'prompt', 'missing_required_parameter', /"prompt" is missing/],
  ['an empty prompt', { ...text, prompt: '' }, 'prompt', 'empty_prompt', /empty/],
  ['an empty array', { ...text, prompt: [] }, 'prompt', 'empty_prompt', /empty/],
  [
    'two prompts',
    { ...text, prompt: ['a', 'b'] },
    'prompt',
    'unsupported_parameter',
    /one request each|Several prompts/,
  ],
  [
    'a prompt of wrong type',
    { ...text, prompt: 7 },
    'prompt',
    'invalid_value',
    /expected a string, an array/,
  ],
  ['a token that does not exist', { ...text, prompt: [5, 9999] }, 'prompt', 'invalid_value', /Token 9999/],
  ['a negative token', { ...text, prompt: [-1] }, 'prompt[0]', 'invalid_value', />=0/],
  ['echo', { ...text, echo: true }, 'echo', 'unsupported_parameter', /echo/],
  ['a suffix', { ...text, suffix: 'x' }, 'suffix', 'unsupported_parameter', /suffix/],
  ['best_of', { ...text, best_of: 3 }, 'best_of', 'unsupported_parameter', /best_of/],
  ['logprobs of chat', { ...text, logprobs: true }, 'logprobs', 'invalid_type', /expected number/],
  ['max_tokens 0', { ...text, max_tokens: 0 }, 'max_tokens', 'invalid_value', />=1/],
  [
    'a prompt that fills the context',
    { ...text, prompt: 'x'.repeat(100) },
    'prompt',
    'context_length_exceeded',
    /no room/,
  ],
]

describe.each([
  ['/v1/chat/completions', CHAT],
  ['/v1/completions', COMPLETION],
])('%s refuses', (path, cases) => {
  test.each(cases)('%s', async (_what, body, param, code, says) => {
    const response = await post(path, body as object)
    const { error } = response.json()
    expect(response.statusCode).toBe(400)
    expect(error).toMatchObject({ param, code, type: 'invalid_request_error' })
    expect(error.message).toMatch(says)
    expect(error.message).toMatch(/^[A-Z"].*\.$/)
    expect(response.headers['x-kvasir-request-id']).toMatch(/^req-[0-9a-f]{24}$/)
  })
})

describe('the body', () => {
  test('malformed JSON', async () => {
    const response = await post('/v1/completions', '{"model": "letters", ')
    expect(response.statusCode).toBe(400)
    expect(response.json().error).toMatchObject({ code: 'invalid_json', type: 'invalid_request_error' })
  })

  test('an empty body', async () => {
    expect((await post('/v1/completions', '')).json().error.code).toBe('invalid_json')
  })

  test('invalid UTF-8', async () => {
    const body = Buffer.from(JSON.stringify(text).replace('hi', 'h#'))
    body[body.indexOf('#')] = 0xff
    const response = await post('/v1/completions', body)
    expect(response.statusCode).toBe(400)
    expect(response.json().error).toMatchObject({
      code: 'invalid_utf8',
      message: expect.stringMatching(/UTF-8/),
    })
  })

  test('another content type', async () => {
    const response = await post('/v1/completions', text, 'text/plain')
    expect(response.statusCode).toBe(415)
    expect(response.json().error.message).toMatch(/application\/json/)
  })

  test('50 MB, to a client that sends all of it before it reads', async () => {
    const url = await gateway.serve()
    const response = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: Buffer.alloc(50 * 1024 * 1024, 'x'),
    })
    expect(response.status).toBe(413)
    expect(await response.json()).toMatchObject({ error: { code: 'request_too_large' } })
  })
})

test('an unknown model', async () => {
  const response = await post('/v1/completions', { ...text, model: 'gpt-9' })
  expect(response.statusCode).toBe(404)
  expect(response.json().error).toMatchObject({ code: 'model_not_found', param: 'model' })
  expect(response.json().error.message).toMatch(/"gpt-9".*"letters", "plain"/)
})

test('an unknown URL', async () => {
  const response = await gateway.app.inject({ method: 'GET', url: '/v1/nothing?x=1' })
  expect(response.statusCode).toBe(404)
  expect(response.json().error).toMatchObject({
    code: 'unknown_url',
    message: expect.stringMatching(/GET \/v1\/nothing/),
  })
})

test.each([
  ['malformed', '/v1/requests/%zz', 400],
  ['too long', `/v1/requests/${'a'.repeat(600)}`, 414],
])('a URL that is %s', async (_what, url, status) => {
  const response = await gateway.app.inject({ method: 'GET', url })
  expect(response.statusCode).toBe(status)
  expect(response.json().error).toMatchObject({ type: 'invalid_request_error', code: 'invalid_url' })
  expect(response.json().error.message.length).toBeLessThan(100)
  expect(response.headers['x-kvasir-request-id']).toMatch(/^req-/)
})

test('nothing of it reached the serving side', () => {
  expect(gateway.service.submitted).toHaveLength(0)
})

test('no body whatever is a fault of the server', async () => {
  const lenient = await testGateway()
  lenient.service.onSubmit = (generation) => generation.finish()
  const names = [
    'model',
    'messages',
    'prompt',
    'stop',
    'seed',
    'top_k',
    'logprobs',
    'stream_options',
    'metadata',
    'tools',
    'attention',
  ]
  const fields = fc.dictionary(fc.constantFrom(...names), fc.jsonValue({ maxDepth: 3 }), { maxKeys: 3 })
  await fc.assert(
    fc.asyncProperty(fields, fc.constantFrom(chat, text), async (body, valid) => {
      const path = valid === chat ? '/v1/chat/completions' : '/v1/completions'
      const payload = JSON.stringify({ ...valid, ...body })
      const headers = { 'content-type': 'application/json' }
      const response = await lenient.app.inject({ method: 'POST', url: path, headers, payload })
      expect(response.statusCode).toBeLessThan(500)
      if (response.statusCode !== 200) expect(response.json().error.message).toMatch(/\.$/)
    }),
    { numRuns: 200 },
  )
  await lenient.close()
})
