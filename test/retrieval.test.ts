/** Retrieval through the whole cluster: what is found is what a textbook finds, whoever breaks meanwhile. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, host, TestCluster, until } from './support/cluster.js'
import { fixtureDocuments, jsonlOf, textbookSearch } from './support/textbook-bm25.js'

interface SearchBody {
  readonly documents: readonly { readonly id: string; readonly score: number }[]
  readonly stages: readonly { readonly stage: string; readonly devices: readonly string[] }[]
}

const documents = fixtureDocuments(400)
const queries = [
  'the wolf and the fox',
  'winter king LOG',
  'été straße',
  'ночь 水',
  'donkey',
  'raven raven cheese',
]
const k = 50
let cluster: TestCluster

beforeAll(async () => {
  cluster = await TestCluster.start({
    // All postings take 9,208 bytes: too much for one agent, enough for two.
    agents: [
      ...[host(), gpu()],
      ...[fpga('fpga-0', ['--shard-bytes', '6500']), fpga('fpga-1', ['--shard-bytes', '6500'])],
    ],
  })
  await post('/v1/corpora', { name: 'tales' })
  await addLines(jsonlOf(documents))
})
afterAll(() => cluster?.stop())

async function post(path: string, body: object): Promise<{ status: number; body: Record<string, unknown> }> {
  const response = await fetch(cluster.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(30_000),
  })
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}

async function addLines(jsonl: string): Promise<Record<string, unknown>> {
  const response = await fetch(`${cluster.url}/v1/corpora/tales/documents`, {
    method: 'POST',
    headers: { 'content-type': 'application/x-ndjson' },
    body: jsonl,
  })
  return (await response.json()) as Record<string, unknown>
}

async function search(query: string): Promise<SearchBody> {
  const { status, body } = await post('/v1/corpora/tales/search', { query, k })
  expect({ status, error: body.error }).toEqual({ status: 200, error: undefined })
  return body as unknown as SearchBody
}

/** Every query finds what the textbook finds; returns who searched. */
async function expectTextbook(): Promise<Set<string>> {
  const searched = new Set<string>()
  for (const query of queries) {
    const found = await search(query)
    const expected = textbookSearch(documents, query, k)
    expect(found.documents.map(({ id }) => id)).toEqual(expected.map(({ id }) => id))
    for (const [index, { score }] of found.documents.entries()) {
      expect(score).toBeCloseTo(expected[index]?.score ?? Number.NaN, 9)
    }
    for (const { stage, devices } of found.stages) {
      if (stage === 'relevancy') for (const device of devices) searched.add(device)
    }
  }
  return searched
}

const untilBothSearch = () =>
  until('both FPGA agents search', async () => {
    const searched = await expectTextbook()
    return searched.size === 2 && !searched.has('host-0')
  })

test('postings are cut over both FPGA agents, and found is what a textbook finds', async () => {
  await untilBothSearch()
  const corpus = (await cluster.json('/v1/corpora/tales')) as {
    documents: number
    shards: { device: string; documents: number }[]
  }
  expect(corpus.documents).toBe(documents.length)
  expect(corpus.shards.map(({ device }) => device).sort()).toEqual(['fpga-0', 'fpga-1'])
})

test('broken lines are told by number, and what was good is searched', async () => {
  await post('/v1/corpora', { name: 'broken' })
  const response = await fetch(`${cluster.url}/v1/corpora/broken/documents`, {
    method: 'POST',
    headers: { 'content-type': 'text/plain' },
    body: '{"_id": "1", "text": "wolf"}\n{"_id": "2"\n\n{"_id": "1", "text": "fox"}\n{"_id": "3", "text": "crane"}',
  })
  expect(await response.json()).toMatchObject({
    added: 2,
    rejected: 2,
    problems: [{ line: 2 }, { line: 4, message: expect.stringContaining('already') }],
  })
  const { body } = await post('/v1/corpora/broken/search', { query: 'crane wolf' })
  expect(body).toMatchObject({ documents: [{ id: '1' }, { id: '3' }] })
  await fetch(`${cluster.url}/v1/corpora/broken`, { method: 'DELETE' })
})

test('a chat and a completion use the documents, and say which', async () => {
  const question = 'raven cheese'
  const best = textbookSearch(documents, question, 2).map(({ id }) => ({ id, truncated: false }))
  const retrieval = { corpus: 'tales', k: 2 }
  const fields = { model: 'skald', max_tokens: 4, temperature: 0, retrieval }
  const messages = [{ role: 'user', content: question }]
  const chat = (await post('/v1/chat/completions', { ...fields, messages })).body
  expect(chat.kvasir).toMatchObject({ retrieval: { corpus: 'tales', documents: best, omitted: 0 } })
  const plain = (await post('/v1/completions', { ...fields, prompt: question, retrieval: undefined })).body
  const completion = (await post('/v1/completions', { ...fields, prompt: question })).body
  expect(completion.kvasir).toMatchObject({ retrieval: { documents: best } })
  const promptTokens = (body: Record<string, unknown>) =>
    (body.usage as { prompt_tokens: number }).prompt_tokens
  expect(promptTokens(completion)).toBeGreaterThan(promptTokens(plain) + 10)
  const { request_id: id } = completion.kvasir as { request_id: string }
  expect(await cluster.request(id)).toMatchObject({
    retrieval: { corpus: 'tales', k: 2, documents: best.map(({ id }) => ({ id })) },
    stages: expect.arrayContaining([
      expect.objectContaining({ pipeline: 'retrieval', stage: 'relevancy', measuredMs: expect.any(Number) }),
      expect.objectContaining({ pipeline: 'retrieval', stage: 'apply', measuredMs: expect.any(Number) }),
    ]),
  })
})

/** Searches without a pause, each held against the textbook, while something breaks. */
async function searchThrough(disturb: () => Promise<void>, longestMs: number): Promise<void> {
  let isOver = false
  const searcher = async (query: string) => {
    const expected = textbookSearch(documents, query, k).map(({ id }) => id)
    while (!isOver) {
      const startedMs = performance.now()
      expect((await search(query)).documents.map(({ id }) => id)).toEqual(expected)
      expect(performance.now() - startedMs).toBeLessThan(longestMs)
    }
  }
  const searchers = Promise.all(queries.map(searcher))
  // One that fails early is waited for below.
  searchers.catch(() => {})
  try {
    await disturb()
  } finally {
    isOver = true
    await searchers
  }
}

test('kill -9 of an FPGA agent among searches: each finds the same; the agent takes part again', {
  timeout: 60_000,
}, async () => {
  await searchThrough(async () => {
    await search('wolf')
    await cluster.kill('fpga-1')
    await until('the other device and the owner search', async () => {
      const { stages } = await search('wolf')
      const devices = stages.find(({ stage }) => stage === 'relevancy')?.devices ?? []
      return !devices.includes('fpga-1') && devices.includes('fpga-0')
    })
  }, 8_000)
  await cluster.startAgent('fpga-1')
  await untilBothSearch()
})

test('an FPGA agent that stands still among searches: each finds the same in time', {
  timeout: 60_000,
}, async () => {
  const pid = cluster.processes.get('fpga-0')?.pid ?? 0
  await searchThrough(async () => {
    await search('wolf')
    process.kill(pid, 'SIGSTOP')
    await until('nobody waits for it any more', async () => {
      const { stages } = await search('fox')
      return stages.every(({ devices }) => !devices.includes('fpga-0'))
    })
  }, 8_000)
  process.kill(pid, 'SIGCONT')
  await cluster.untilDevicesReady(['fpga-0'])
  await untilBothSearch()
})

test('kill -9 of the host agent: the error names it; restarted it has its corpora', {
  timeout: 60_000,
}, async () => {
  await cluster.kill('host-0')
  const { status, body } = await post('/v1/corpora/tales/search', { query: 'wolf', k })
  expect({ status, body }).toMatchObject({
    status: 503,
    body: { error: { message: expect.stringMatching(/"tales".*host-0/) } },
  })
  await cluster.startAgent('host-0')
  await cluster.untilDevicesReady(['host-0'])
  await untilBothSearch()
})

test('a coordinator that restarts knows the corpora and who holds what', { timeout: 60_000 }, async () => {
  await cluster.kill('coordinator')
  await cluster.startCoordinator()
  await cluster.untilDevicesReady(['host-0', 'fpga-0', 'fpga-1'])
  await untilBothSearch()
})

test('a deleted corpus is gone, and its name is free', async () => {
  await post('/v1/corpora', { name: 'short' })
  const response = await fetch(`${cluster.url}/v1/corpora/short`, { method: 'DELETE' })
  expect(response.status).toBe(200)
  expect((await post('/v1/corpora/short/search', { query: 'wolf' })).status).toBe(404)
  expect((await post('/v1/corpora', { name: 'short' })).status).toBe(201)
})
