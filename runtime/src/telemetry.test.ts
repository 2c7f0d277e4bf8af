import { createServer, type Server } from 'node:http'
import { KvServiceClient, KvServiceService } from '@kvasir/proto/kvasir/kv/v1/kv'
import { context, SpanStatusCode, trace } from '@opentelemetry/api'
import { InMemorySpanExporter, type ReadableSpan } from '@opentelemetry/sdk-trace-base'
import { afterEach, describe, expect, test } from 'vitest'
import { delay, withDeadline } from './deferred.js'
import { CancelledError, OverloadedError } from './errors.js'
import { callUnary, createRpcClient } from './rpc-client.js'
import { bidi, serverStream, startRpcServer, unary } from './rpc-server.js'
import { activeTraceId, startSpan, startTelemetry, type Telemetry, withSpan } from './telemetry.js'
import { ATTRIBUTE, SPAN } from './telemetry-names.js'

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

function start(exporter: Parameters<typeof startTelemetry>[0]['exporter']): Telemetry {
  const telemetry = startTelemetry({ service: 'test', instance: 'test-0', exporter })
  cleanups.push(() => telemetry.close())
  return telemetry
}

/** Spans outlive the exporter's shutdown here, which an InMemorySpanExporter's do not. */
class KeptSpans extends InMemorySpanExporter {
  readonly kept: ReadableSpan[] = []
  override export(...[spans, done]: Parameters<InMemorySpanExporter['export']>): void {
    this.kept.push(...spans)
    super.export(spans, done)
  }
  named(name: string): ReadableSpan {
    const span = this.kept.find((candidate) => candidate.name === name)
    if (span === undefined) throw new Error(`no span ${name}`)
    return span
  }
}

/** An OTLP receiver that counts span names; `answer` decides what it says. */
async function receiver(answer: () => number): Promise<{ url: string; names: string[]; server: Server }> {
  const names: string[] = []
  const server = createServer((request, response) => {
    const parts: Buffer[] = []
    request.on('data', (part: Buffer) => parts.push(part))
    request.on('end', () => {
      const code = answer()
      if (code === 200) {
        const body = JSON.parse(Buffer.concat(parts).toString('utf8'))
        for (const resource of body.resourceSpans)
          for (const scope of resource.scopeSpans) for (const span of scope.spans) names.push(span.name)
      }
      response.writeHead(code, { 'content-type': 'application/json' }).end('{}')
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanups.push(
    () => server.closeAllConnections(),
    () => server.close(),
  )
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return { url: `http://127.0.0.1:${port}/v1/traces`, names, server }
}

async function until(check: () => boolean): Promise<void> {
  const endMs = performance.now() + 4_000
  while (!check()) {
    if (performance.now() > endMs) throw new Error('not in time')
    await delay(10)
  }
}

describe('spans', () => {
  test('nest by context, and record errors with their code', async () => {
    const spans = new KeptSpans()
    const telemetry = start(spans)
    const failing = withSpan(SPAN.request, { [ATTRIBUTE.requestId]: 'r-1' }, async (root) => {
      expect(activeTraceId()).toBe(root.spanContext().traceId)
      await withSpan(SPAN.place, {}, () => undefined)
      startSpan(SPAN.decode, {}, trace.setSpan(context.active(), root)).end()
      throw new OverloadedError('No room; try later.')
    })
    await expect(failing).rejects.toThrow(OverloadedError)
    expect(activeTraceId()).toBeUndefined()
    await telemetry.close()

    const root = spans.named('request')
    expect(root.status).toEqual({ code: SpanStatusCode.ERROR, message: 'No room; try later.' })
    expect(root.attributes).toMatchObject({ 'kvasir.request_id': 'r-1', 'kvasir.error_code': 'overloaded' })
    expect(root.resource.attributes).toMatchObject({
      'service.name': 'test',
      'service.instance.id': 'test-0',
    })
    for (const name of ['place', 'decode']) {
      expect(spans.named(name).parentSpanContext?.spanId).toBe(root.spanContext().spanId)
    }
  })

  test('that were cancelled say so, and are no failures', async () => {
    const spans = new KeptSpans()
    const telemetry = start(spans)
    const leaving = withSpan(SPAN.decode, {}, () => {
      throw new CancelledError('The client went away.')
    })
    await expect(leaving).rejects.toThrow(CancelledError)
    await telemetry.close()
    const { status, attributes } = spans.named('decode')
    expect(status.code).toBe(SpanStatusCode.UNSET)
    expect(attributes['kvasir.error_code']).toBe('cancelled')
  })

  test('follow a call from client to server', async () => {
    const spans = new KeptSpans()
    const telemetry = start(spans)
    const absent = async () => {}
    const server = await startRpcServer({
      host: '127.0.0.1',
      port: 0,
      services: [
        {
          definition: KvServiceService,
          implementation: {
            reserve: unary(async () => {
              await delay(1)
              await withSpan(SPAN.prefillRun, {}, () => undefined)
              return { lease: undefined, tokens: 0 }
            }),
            extend: unary(async () => ({ tokens: 0 })),
            release: unary(async () => ({ wasAlive: false })),
            pull: bidi(absent),
            snapshot: serverStream(absent),
            offer: unary(absent),
          },
        },
      ],
    })
    const client = createRpcClient(KvServiceClient, server.address)
    const request = {
      requestId: 'r',
      epoch: 1,
      modelDigest: 'd',
      tokens: 1,
      profile: 'PROFILE_EXACT',
    } as const
    await withSpan(SPAN.reserve, {}, () => callUnary(client, 'reserve', request))
    client.close()
    await server.close()
    await telemetry.close()
    expect(spans.named('prefill.run').parentSpanContext?.spanId).toBe(
      spans.named('reserve').spanContext().spanId,
    )
  })

  test('cost nothing and break nothing without telemetry', async () => {
    expect(await withSpan(SPAN.place, {}, (span) => span.isRecording())).toBe(false)
  })
})

describe('export over HTTP', () => {
  test('keeps spans until the receiver is known, and flushes at the end', async () => {
    const { url, names } = await receiver(() => 200)
    let known: string | undefined
    const telemetry = start({ otlpUrl: () => known })
    startSpan(SPAN.prepare, {}).end()
    // Longer than the export delay, so that the span has been handed on while nobody is known.
    await delay(300)
    known = url
    await until(() => names.includes('prepare'))
    startSpan(SPAN.place, {}).end()
    await telemetry.close()
    expect(names).toEqual(['prepare', 'place'])
  })

  test('tries a receiver that fails again, and follows one that moves', async () => {
    let code = 400
    const first = await receiver(() => code)
    const second = await receiver(() => 200)
    let url = first.url
    start({ otlpUrl: () => url })
    startSpan(SPAN.prepare, {}).end()
    await delay(300)
    expect(first.names).toEqual([])
    code = 200
    await until(() => first.names.length === 1)
    url = second.url
    startSpan(SPAN.place, {}).end()
    await until(() => second.names.length === 1)
    expect(second.names).toEqual(['place'])
  })

  test('a dead receiver costs a bound of memory and of time', async () => {
    const silent = await receiver(() => 200)
    await new Promise((resolve) => silent.server.close(resolve))
    const hanging = createServer(() => {})
    await new Promise<void>((resolve) => hanging.listen(0, '127.0.0.1', resolve))
    cleanups.push(
      () => hanging.closeAllConnections(),
      () => hanging.close(),
    )
    const address = hanging.address()
    const port = typeof address === 'object' && address !== null ? address.port : 0
    for (const url of [silent.url, `http://127.0.0.1:${port}/v1/traces`]) {
      const telemetry = start({ otlpUrl: () => url })
      for (let i = 0; i < 10_000; i += 1) startSpan(SPAN.place, {}).end()
      const startedAt = performance.now()
      await withDeadline(telemetry.close(), 1_900, 'closing')
      expect(performance.now() - startedAt).toBeLessThan(1_900)
    }
  })

  test('spans that wait are bounded, the oldest are lost', async () => {
    const { url, names } = await receiver(() => 200)
    let known: string | undefined
    const telemetry = start({ otlpUrl: () => known })
    for (let batch = 0; batch < 12; batch += 1) {
      for (let i = 0; i < 511; i += 1) startSpan(batch < 2 ? SPAN.place : SPAN.decode, {}).end()
      // The batch processor hands on at 512.
      startSpan(batch < 2 ? SPAN.place : SPAN.decode, {}).end()
      await delay(0)
    }
    known = url
    await telemetry.close()
    expect(names.length).toBe(4_096)
    expect(names.filter((name) => name === 'place')).toEqual([])
  })
})
