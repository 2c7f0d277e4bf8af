/** `/v1/corpora` and the field `retrieval`, over real HTTP and gRPC, with devices that count words. */
import { request as httpRequest } from 'node:http'
import type { CorpusRef } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { systemClock } from '@kvasir/runtime/clock'
import { deferred } from '@kvasir/runtime/deferred'
import { createLogger } from '@kvasir/runtime/log'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createCorpora } from '../retrieval/corpora.js'
import { FakeOwner, FakeSearcher } from '../retrieval/testing/fake-corpus-devices.js'
import { byteIds } from './testing/letter-model.js'
import { type TestGateway, testGateway } from './testing/test-gateway.js'

const tales: CorpusRef = { name: 'tales', tenantSalt: Buffer.alloc(0) }
const jsonl = { 'content-type': 'application/x-ndjson' }
let owner: FakeOwner
let fpga: FakeSearcher
let gateway: TestGateway
let url: string

async function start(overrides: Parameters<typeof testGateway>[0] = {}): Promise<void> {
  const corpora = createCorpora({
    nodes: () => [owner.node, fpga.node],
    clock: systemClock,
    log: createLogger({ service: 'test', terminal: false }),
  })
  gateway = await testGateway({ corpora, ...overrides })
  url = await gateway.serve()
}

beforeEach(async () => {
  owner = await new FakeOwner().start()
  fpga = await new FakeSearcher('fpga-0', owner, 1e6).start()
  await start()
})
afterEach(async () => {
  await gateway.close()
  await Promise.all([owner.kill(), fpga.kill()])
})

interface Answer {
  readonly status: number
  readonly body: {
    readonly error?: { readonly message: string; readonly code: string; readonly param: string | null }
  } & Readonly<Record<string, unknown>>
}

async function call(path: string, init: RequestInit = {}): Promise<Answer> {
  const response = await fetch(`${url}${path}`, init)
  return { status: response.status, body: (await response.json()) as Answer['body'] }
}

function post(path: string, body: object, headers: Record<string, string> = {}): Promise<Answer> {
  return call(path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
}

async function expectRefusal(answer: Promise<Answer>, status: number, code: string, message?: RegExp) {
  const { status: actual, body } = await answer
  expect({ status: actual, code: body.error?.code }).toEqual({ status, code })
  if (message) expect(body.error?.message).toMatch(message)
}

describe('corpora', () => {
  test('are created, filled, searched, listed and deleted', async () => {
    expect(await post('/v1/corpora', { name: 'fables' })).toMatchObject({
      status: 201,
      body: { object: 'corpus', name: 'fables', documents: 0, owner: 'host-0', available: true },
    })
    const body = 'the wolf\nbroken\nthe fox\nfox and wolf\n'
    expect(
      await call('/v1/corpora/fables/documents', { method: 'POST', headers: jsonl, body }),
    ).toMatchObject({
      status: 200,
      body: {
        added: 3,
        rejected: 1,
        problems: [{ line: 2, message: 'It is broken.' }],
        corpus: { name: 'fables', documents: 3 },
      },
    })
    expect(await post('/v1/corpora/fables/search', { query: 'fox', k: 1 })).toMatchObject({
      status: 200,
      body: {
        corpus: 'fables',
        k: 1,
        documents: [{ id: 'd1', title: 'title 1', text: 'the fox', score: 1 }],
        tookMs: expect.any(Number),
        stages: [{ stage: 'prepare' }, { stage: 'relevancy', devices: ['fpga-0'] }, { stage: 'retrieval' }],
      },
    })
    expect((await call('/v1/corpora')).body).toMatchObject({ object: 'list', data: [{ name: 'fables' }] })
    expect((await call('/v1/corpora/fables')).body).toMatchObject({
      shards: [{ device: 'fpga-0', documents: 3 }],
    })
    expect(await call('/v1/corpora/fables', { method: 'DELETE' })).toMatchObject({
      status: 200,
      body: { name: 'fables', deleted: true },
    })
    await expectRefusal(call('/v1/corpora/fables'), 404, 'corpus_not_found', /Create it first/)
  })

  test('are of one key', async () => {
    await gateway.close()
    await start({ apiKeys: ['key-of-anna', 'key-of-bert'] })
    const as = (name: string) => ({ authorization: `Bearer key-of-${name}` })
    await post('/v1/corpora', { name: 'tales' }, as('anna'))
    expect((await call('/v1/corpora', { headers: as('bert') })).body.data).toEqual([])
    await expectRefusal(call('/v1/corpora/tales', { headers: as('bert') }), 404, 'corpus_not_found')
    await expectRefusal(call('/v1/corpora/tales'), 401, 'invalid_api_key')
  })

  test('what was retrieved for a request is shown to its own key alone', async () => {
    await gateway.close()
    await start({ apiKeys: ['key-of-anna', 'key-of-bert'] })
    gateway.service.onSubmit = (generation) => generation.finish('stop')
    const as = (name: string) => ({ authorization: `Bearer key-of-${name}` })
    await post('/v1/corpora', { name: 'tales' }, as('anna'))
    const body = 'the wolf\n'
    await call('/v1/corpora/tales/documents', { method: 'POST', headers: { ...jsonl, ...as('anna') }, body })
    const prompt = { model: 'letters', prompt: 'wolf', max_tokens: 5 }
    const answer = await post('/v1/completions', { ...prompt, retrieval: { corpus: 'tales' } }, as('anna'))
    const { request_id: id } = answer.body.kvasir as { request_id: string }
    const seenBy = async (name: string) => (await call(`/v1/requests/${id}`, { headers: as(name) })).body
    expect(await seenBy('anna')).toMatchObject({ requestId: id, retrieval: { documents: [{ id: 'd0' }] } })
    expect(await seenBy('bert')).toMatchObject({ requestId: id, retrieval: null })
  })

  test('say what is wrong with a request', async () => {
    owner.add(tales, [['wolf']])
    const search = (body: object) => post('/v1/corpora/tales/search', body)
    await expectRefusal(post('/v1/corpora', { name: 'a/b' }), 400, 'invalid_input', /1 to 64/)
    await expectRefusal(post('/v1/corpora', {}), 400, 'missing_required_parameter')
    await expectRefusal(post('/v1/corpora', { name: 'tales' }), 409, 'corpus_exists', /already/)
    await expectRefusal(search({ query: 'wolf', k: 0 }), 400, 'invalid_value')
    await expectRefusal(search({ query: 'wolf', k: 1_001 }), 400, 'invalid_value')
    await expectRefusal(search({ query: 'wolf', k: 1.5 }), 400, 'invalid_type')
    await expectRefusal(search({ query: ' ' }), 400, 'empty_query')
    await expectRefusal(search({ query: 'wolf', limit: 3 }), 400, 'unknown_parameter')
    await expectRefusal(post('/v1/corpora/none/search', { query: 'wolf' }), 404, 'corpus_not_found')
    await expectRefusal(call('/v1/corpora/none', { method: 'DELETE' }), 404, 'corpus_not_found')
    expect((await search({ query: 'wolf', k: 1_000 })).body.documents).toHaveLength(1)
    expect((await search({ query: 'dragon' })).body.documents).toEqual([])
  })

  test('take queries of any letters, and no half of one', async () => {
    owner.add(tales, [['wolf']])
    const search = (query: string) => post('/v1/corpora/tales/search', { query })
    for (const query of ['🙂', '‮עברית', 'e\u0301', '東京', '\0', 'the of and', '…']) {
      expect(await search(query), query).toMatchObject({ status: 200, body: { documents: [] } })
    }
    await expectRefusal(search('wolf \ud800'), 400, 'invalid_value', /half a surrogate pair/)
    for (const name of ['🙂', '東京', 'a\0', '\ud83d', '..', '', 'x'.repeat(65)]) {
      await expectRefusal(post('/v1/corpora', { name }), 400, 'invalid_input', /1 to 64/)
    }
    await expectRefusal(call(`/v1/corpora/${encodeURIComponent('🙂')}`), 404, 'corpus_not_found')
  })

  test('without a device that keeps them are unavailable', async () => {
    owner.state = 'lost'
    await expectRefusal(post('/v1/corpora', { name: 'tales' }), 503, 'unavailable', /No host agent/)
  })

  test('a search has a trace and its own counts', async () => {
    owner.add(tales, [['wolf']])
    const response = await fetch(`${url}/v1/corpora/tales/search`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query: 'wolf' }),
    })
    expect(response.headers.get('x-kvasir-request-id')).toMatch(/^req-/)
    await response.json()
    const metrics = await (await fetch(`${url}/metrics`)).text()
    expect(metrics).toMatch(
      /gen_ai_server_request_duration_seconds_count\{gen_ai_operation_name="retrieval".*\} 1/,
    )
  })
})

describe('an upload', () => {
  const upload = (init: RequestInit) => call('/v1/corpora/tales/documents', { method: 'POST', ...init })
  beforeEach(() => owner.add(tales, []))

  test('of another type is refused', async () => {
    for (const type of ['application/json', 'application/x-www-form-urlencoded']) {
      const refused = upload({ headers: { 'content-type': type }, body: '{}' })
      await expectRefusal(refused, 415, 'unsupported_media_type', /JSONL/)
    }
  })

  test('of nothing adds nothing', async () => {
    expect(await upload({ headers: jsonl, body: '' })).toMatchObject({ status: 200, body: { added: 0 } })
  })

  test('may be larger than JSON may be, to a bound of its own', async () => {
    await gateway.close()
    const limits = { streamBufferBytesMax: 65_536, streamDrainMs: 2_000 }
    await start({ limits: { ...limits, bodyBytesMax: 1_024, uploadBytesMax: 100_000 } })
    const lines = (count: number) => 'wolf and fox\n'.repeat(count)
    expect(await upload({ headers: jsonl, body: lines(5_000) })).toMatchObject({ body: { added: 5_000 } })
    await expectRefusal(upload({ headers: jsonl, body: lines(10_000) }), 413, 'request_too_large')
    // Without a length that could be known before.
    const chunks = async function* () {
      for (let count = 0; count < 100; count++) yield Buffer.from(lines(100))
    }
    const streamed = { headers: jsonl, body: ReadableStream.from(chunks()), duplex: 'half' as const }
    await expectRefusal(upload(streamed), 413, 'request_too_large', /nothing of it was added/)
  })

  test('to a corpus that is not there is refused, whatever it holds', async () => {
    const refused = call('/v1/corpora/none/documents', {
      method: 'POST',
      headers: jsonl,
      body: 'x\n'.repeat(100_000),
    })
    await expectRefusal(refused, 404, 'corpus_not_found')
  })

  test('that breaks off adds nothing', async () => {
    const arrived = deferred<void>()
    const broken = httpRequest(`${url}/v1/corpora/tales/documents`, { method: 'POST', headers: jsonl })
    broken.on('error', () => {})
    broken.write('the wolf\n', () => arrived.resolve())
    await arrived.promise
    broken.destroy()
    expect((await call('/v1/corpora/tales')).body).toMatchObject({ documents: 0 })
  })
})

describe('retrieval for a completion', () => {
  const HELLO = byteIds('Hello')
  beforeEach(() => {
    owner.add(tales, [['the', 'wolf'], ['a', 'fox', 'a', 'wolf', 'a', 'wolf'], ['bread']])
    gateway.service.onSubmit = (generation) => {
      generation.tokens(...HELLO)
      generation.finish('stop')
    }
  })
  const complete = (fields: object) => post('/v1/completions', { model: 'letters', max_tokens: 5, ...fields })
  const prompted = () => Buffer.from(gateway.service.submitted.at(-1)?.request.promptTokens ?? []).toString()
  const retrieval = { corpus: 'tales', k: 2 }

  test('puts the documents before the prompt and lists them', async () => {
    const { status, body } = await complete({ prompt: 'wolf', retrieval })
    expect(status).toBe(200)
    expect(prompted()).toBe('Documents:\n\n[1] title 1\na fox a wolf a wolf\n\n[2] title 0\nthe wolf\n\nwolf')
    expect(body.kvasir).toMatchObject({
      retrieval: {
        corpus: 'tales',
        omitted: 0,
        documents: [
          { id: 'd1', title: 'title 1', score: 2, truncated: false },
          { id: 'd0', title: 'title 0', score: 1, truncated: false },
        ],
      },
    })
    expect(gateway.service.submitted.at(-1)?.request.retrieval).toMatchObject({
      corpus: 'tales',
      k: 2,
      documents: [{ id: 'd1' }, { id: 'd0' }],
      stages: [
        { stage: 'prepare', devices: ['host-0'] },
        { stage: 'relevancy', devices: ['fpga-0'] },
        { stage: 'retrieval', devices: ['fpga-0'] },
        { stage: 'apply', devices: ['coordinator-test'], measuredMs: expect.any(Number) },
      ],
    })
  })

  test('searches with the last user message of a chat, in a stream too', async () => {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        model: 'letters',
        stream: true,
        max_tokens: 5,
        messages: [
          { role: 'user', content: 'fox' },
          { role: 'assistant', content: 'yes' },
          { role: 'user', content: 'bread' },
        ],
        retrieval,
      }),
    })
    const events = (await response.text()).split('\n\n')
    const last = JSON.parse(events.at(-3)?.replace('data: ', '') ?? '')
    expect(last.kvasir.retrieval).toMatchObject({ corpus: 'tales', documents: [{ id: 'd2' }] })
    expect(prompted()).toBe('user:fox\nassistant:yes\nuser:Documents:\n\n[1] title 2\nbread\n\nbread\n')
  })

  test('puts as many as fit with room for the answer, the last cut at a word', async () => {
    const { body } = await complete({ prompt: 'wolf', max_tokens: 55, retrieval })
    expect(prompted()).toMatch(/^Documents:\n\n\[1\] title 1\na fox a( wolf)?( a)?\n\nwolf$/)
    expect(prompted().length).toBeLessThanOrEqual(45)
    expect(body.kvasir).toMatchObject({
      retrieval: { documents: [{ id: 'd1', truncated: true }], omitted: 1 },
    })
    const none = await complete({ prompt: 'wolf', max_tokens: 95, retrieval })
    expect(prompted()).toBe('wolf')
    expect(none.body.kvasir).toMatchObject({ retrieval: { documents: [], omitted: 2 } })
  })

  test('that finds nothing leaves the prompt as it is', async () => {
    const { body } = await complete({ prompt: 'dragon', retrieval })
    expect(prompted()).toBe('dragon')
    expect(body.kvasir).toMatchObject({ retrieval: { corpus: 'tales', documents: [], omitted: 0 } })
  })

  test('says what is wrong with it', async () => {
    owner.add({ ...tales, name: 'empty' }, [])
    const of = (fields: object) => complete({ prompt: 'wolf', ...fields })
    await expectRefusal(of({ retrieval: { corpus: 'none' } }), 404, 'corpus_not_found')
    await expectRefusal(of({ retrieval: { corpus: 'empty' } }), 404, 'corpus_empty')
    await expectRefusal(of({ retrieval: { corpus: 'tales', k: 0 } }), 400, 'invalid_value')
    await expectRefusal(of({ retrieval: { corpus: 'tales', k: 51 } }), 400, 'invalid_value')
    await expectRefusal(of({ retrieval: {} }), 400, 'missing_required_parameter')
    await expectRefusal(of({ retrieval: { corpus: 'tales', top: 3 } }), 400, 'unsupported_parameter')
    await expectRefusal(of({ prompt: byteIds('wolf'), retrieval }), 400, 'invalid_value', /token ids/)
    await expectRefusal(of({ prompt: ' ', retrieval }), 400, 'empty_query')
    const messages = [{ role: 'system', content: 'Be kind.' }]
    await expectRefusal(
      post('/v1/chat/completions', { model: 'letters', messages, retrieval }),
      400,
      'invalid_value',
      /last user message/,
    )
    expect(gateway.service.submitted).toHaveLength(0)
  })

  test('null means no retrieval', async () => {
    const { body } = await complete({ prompt: 'wolf', retrieval: null })
    expect(prompted()).toBe('wolf')
    expect(body.kvasir).not.toHaveProperty('retrieval')
  })
})
