/** One trace a request: complete, without orphans, also when a device was lost on the way. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fpga, gpu, TestCluster, until } from './support/cluster.js'
import { openai, storyPrompt, streamCompletion } from './support/streams.js'

interface Span {
  readonly spanId: string
  readonly parentSpanId: string | null
  readonly name: string
  readonly service: string
  readonly startUnixNano: string
  readonly endUnixNano: string
  readonly attributes: Record<string, unknown>
  readonly status: { readonly code: string }
}

let cluster: TestCluster

beforeAll(async () => {
  cluster = await TestCluster.start({ agents: [gpu(), fpga('fpga-0'), fpga('fpga-1')] })
})
afterAll(() => cluster?.stop())

async function trace(id: string): Promise<Span[]> {
  return ((await cluster.json(`/v1/traces/${id}?wait=10000`)) as { spans: Span[] }).spans
}

function expectNoOrphans(spans: readonly Span[]): void {
  const ids = new Set(spans.map((span) => span.spanId))
  const roots = spans.filter((span) => span.parentSpanId === null)
  expect(roots.map((span) => span.name)).toEqual(['request'])
  expect(spans.filter((span) => span.parentSpanId !== null && !ids.has(span.parentSpanId))).toEqual([])
  for (const span of spans) expect(BigInt(span.endUnixNano) >= BigInt(span.startUnixNano)).toBe(true)
}

test('every stage of a request is a span of one trace', async () => {
  const result = await streamCompletion(cluster, { maxTokens: 16 })
  const spans = await trace(result.requestId)
  expectNoOrphans(spans)
  expect(spans.map((span) => span.name).sort()).toEqual(
    [
      ...['request', 'prepare', 'place', 'reserve', 'prefill', 'decode'],
      ...['prefill.run', 'kv.send', 'kv.receive', 'decode.run'],
    ].sort(),
  )
  const byName = (name: string) => spans.find((span) => span.name === name)
  expect(byName('prefill.run')?.parentSpanId).toBe(byName('prefill')?.spanId)
  expect(byName('kv.receive')?.parentSpanId).toBe(byName('decode')?.spanId)
  expect(Number(byName('kv.send')?.attributes['kvasir.kv.bytes'])).toBe(6 * 2 * 2 * 16 * 32 * 4)
  expect(await trace(result.traceId)).toHaveLength(spans.length)
})

test("a client's traceparent is honoured", async () => {
  const traceId = '0af7651916cd43dd8448eb211c80319c'
  const { response } = await openai(cluster)
    .completions.create(
      { model: 'skald', prompt: storyPrompt, max_tokens: 2 },
      { headers: { traceparent: `00-${traceId}-b7ad6b7169203331-01` } },
    )
    .withResponse()
  expect(response.headers.get('x-kvasir-trace-id')).toBe(traceId)
  const spans = await trace(traceId)
  expect(spans.find((span) => span.name === 'request')?.parentSpanId).toBe('b7ad6b7169203331')
})

test('a stop string in mid-decode is no error in the trace, nor is a client that leaves', async () => {
  const { response } = await openai(cluster)
    .completions.create({
      model: 'skald',
      prompt: storyPrompt,
      max_tokens: 400,
      temperature: 0,
      stop: ' and',
    })
    .withResponse()
  const leave = new AbortController()
  let leaver = ''
  await streamCompletion(cluster, {
    maxTokens: 2_000,
    signal: leave.signal,
    onChunk: (chunks, requestId) => {
      leaver = requestId
      if (chunks === 3) leave.abort()
    },
  }).catch(() => {})
  for (const id of [response.headers.get('x-kvasir-request-id') ?? '', leaver]) {
    const spans = await trace(id)
    expectNoOrphans(spans)
    expect(spans.map((span) => span.name)).toContain('decode.run')
    expect(spans.filter((span) => span.status.code === 'error')).toEqual([])
  }
})

test('log lines about a request carry its trace id', async () => {
  const result = await streamCompletion(cluster, { maxTokens: 2 })
  const lines = () =>
    cluster
      .log('coordinator')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
  const ofRequests = () => lines().filter((line) => line.requestId !== undefined)
  await until('the request is in the log', () =>
    ofRequests().some((line) => line.requestId === result.requestId),
  )
  expect(ofRequests().find((line) => line.requestId === result.requestId)?.trace_id).toBe(result.traceId)
  expect(ofRequests().filter((line) => !/^[0-9a-f]{32}$/.test(line.trace_id))).toEqual([])
})

test('a lost decode device leaves a trace without orphans that shows both placements', async () => {
  const result = await streamCompletion(cluster, {
    maxTokens: 300,
    onChunk: async (chunks, requestId) => {
      if (chunks === 30) {
        await cluster.kill((await cluster.request(requestId)).placements[0]?.decodeDevice ?? '')
      }
    },
  })
  const spans = await trace(result.requestId)
  expectNoOrphans(spans)
  expect(spans.filter((span) => span.name === 'decode')).toHaveLength(2)
  expect(spans.filter((span) => span.name === 'place')).toHaveLength(2)
})

test('logs are JSON lines; those of a request carry its trace id, in every process it crossed', async () => {
  const result = await streamCompletion(cluster, { maxTokens: 8 })
  const { prefillDevice, decodeDevice } = (await cluster.request(result.requestId)).placements[0] ?? {}
  for (const name of ['coordinator', prefillDevice ?? '', decodeDevice ?? '']) {
    const ofRequest = () =>
      cluster
        .log(name)
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as { requestId?: string; trace_id?: string })
        .filter((line) => line.requestId === result.requestId)
    await until(`${name} has logged the request`, () => ofRequest().length > 0)
    expect(ofRequest().map((line) => line.trace_id)).toEqual(ofRequest().map(() => result.traceId))
  }
})
