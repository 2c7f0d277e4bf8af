import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createLogger } from '@kvasir/runtime/log'
import { afterEach, describe, expect, test } from 'vitest'
import { parseOtlpJson } from './otlp-json.js'
import type { StoredSpan } from './stored-span.js'
import { forwardTarget, TraceForwarder } from './trace-forwarder.js'

let server: Server | undefined
const log = createLogger({ service: 'test', terminal: false })

afterEach(() => {
  server?.closeAllConnections()
  server?.close()
  server = undefined
})

/** A backend that answers with these statuses in turn, the last one for ever, and keeps what it took. */
async function backend(...statuses: number[]) {
  const taken: StoredSpan[] = []
  const headers: unknown[] = []
  let requests = 0
  server = createServer(async (request, response) => {
    let body = ''
    for await (const part of request) body += part
    const status = statuses[Math.min(requests++, statuses.length - 1)] ?? 200
    headers.push(request.headers['x-team'])
    if (status === 200) taken.push(...parseOtlpJson(JSON.parse(body)).spans)
    response.writeHead(status).end('{}')
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server?.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}/v1/traces`, taken, headers, requests: () => requests }
}

function spans(count: number): StoredSpan[] {
  return Array.from({ length: count }, (_, i) => ({
    traceId: 'a'.repeat(32),
    spanId: i.toString(16).padStart(16, '0'),
    parentSpanId: null,
    name: 'work',
    kind: 'internal',
    service: 's',
    instance: 'i',
    startUnixNano: '1',
    endUnixNano: '2',
    attributes: {},
    events: [],
    status: { code: 'unset', message: '' },
  }))
}

describe('TraceForwarder', () => {
  test('sends everything in batches, with the headers', async () => {
    const { url, taken, headers, requests } = await backend(200)
    const forwarder = new TraceForwarder({ url, headers: { 'x-team': 'kv' }, log })
    forwarder.push(spans(1_200))
    await forwarder.close(5_000)
    expect(taken).toHaveLength(1_200)
    expect(requests()).toBe(3)
    expect(headers[0]).toBe('kv')
  })

  test('tries again where the backend asks for it, and not where it refuses', async () => {
    const busy = await backend(503, 200)
    const forwarder = new TraceForwarder({ url: busy.url, headers: {}, log })
    forwarder.push(spans(1))
    await forwarder.close(5_000)
    expect(busy.taken).toHaveLength(1)
    server?.close()
    const refusing = await backend(400)
    const refused = new TraceForwarder({ url: refusing.url, headers: {}, log })
    refused.push(spans(1))
    await refused.close(5_000)
    expect(refusing.requests()).toBe(1)
    expect(refused.spansDropped).toBe(1)
  })

  test('a dead backend holds up neither pushing nor closing, and the queue is bounded', async () => {
    const forwarder = new TraceForwarder({ url: 'http://127.0.0.1:9/v1/traces', headers: {}, log })
    for (let i = 0; i < 30; i++) forwarder.push(spans(1_000))
    expect(forwarder.spansDropped).toBeGreaterThanOrEqual(9_000)
    await forwarder.close(50)
  })
})

test('the standard variables', () => {
  expect(forwardTarget({})).toBeUndefined()
  expect(
    forwardTarget({
      OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c:4318/',
      OTEL_EXPORTER_OTLP_HEADERS: 'a=b%20c, d=e=f',
    }),
  ).toEqual({ url: 'http://c:4318/v1/traces', headers: { a: 'b c', d: 'e=f' } })
  expect(forwardTarget({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://c/x' })?.url).toBe('http://c/x')
})
