import { startTelemetry } from '@kvasir/runtime/telemetry'
import { describe, expect, test } from 'vitest'
import { createStoreExporter } from '../trace-store/span-exporter.js'
import { wordId } from './testing/letter-model.js'
import { LETTERS } from './testing/scripted-service.js'
import { testGateway, testTraceStore } from './testing/test-gateway.js'

const KEY = 'a-secret-key'

describe('what can be read', () => {
  test('models', async () => {
    const gateway = await testGateway()
    const list = (await gateway.app.inject({ url: '/v1/models' })).json()
    expect(list.object).toBe('list')
    expect(list.data).toMatchObject([
      {
        id: 'letters',
        object: 'model',
        owned_by: 'kvasir',
        kvasir: { chat: true, ready: true, context_tokens_max: 100 },
      },
      { id: 'plain', kvasir: { chat: false, ready: false } },
    ])
    expect((await gateway.app.inject({ url: '/v1/models/plain' })).json()).toEqual(list.data[1])
    const missing = await gateway.app.inject({ url: '/v1/models/org/none' })
    expect(missing.statusCode).toBe(404)
    expect(missing.json().error.code).toBe('model_not_found')
    await gateway.close()
  })

  test('health follows what can be served', async () => {
    const gateway = await testGateway()
    expect((await gateway.app.inject({ url: '/health/live' })).statusCode).toBe(200)
    expect((await gateway.app.inject({ url: '/health/ready' })).json()).toEqual({
      status: 'ready',
      models: ['letters'],
    })
    gateway.service.modelReports = [{ ...LETTERS, name: 'a model without text', digest: 'd3' }]
    expect((await gateway.app.inject({ url: '/health/ready' })).statusCode).toBe(503)
    await gateway.close()
  })

  test('the cluster, and a request by its id or its completion’s id', async () => {
    const gateway = await testGateway()
    expect((await gateway.app.inject({ url: '/v1/cluster' })).json()).toMatchObject({ queuedRequests: 3 })
    gateway.service.onSubmit = (generation) => generation.finish()
    const answer = await complete(gateway)
    const id = String(answer.headers['x-kvasir-request-id'])
    const report = (await gateway.app.inject({ url: `/v1/requests/${id}` })).json()
    expect(report).toMatchObject({ requestId: id, model: 'letters' })
    expect((await gateway.app.inject({ url: `/v1/requests/${answer.json().id}` })).json()).toEqual(report)
    expect((await gateway.app.inject({ url: '/v1/requests/req-0' })).json().error.code).toBe(
      'request_not_found',
    )
    await gateway.close()
  })

  test('metrics', async () => {
    const gateway = await testGateway()
    gateway.service.onSubmit = (generation) => {
      generation.tokens(wordId('Hello'))
      generation.tokens(wordId('!'))
      generation.finish()
    }
    await complete(gateway)
    await gateway.app.inject({ url: '/metrics' })
    // What is read when it is asked for is not counted twice.
    const response = await gateway.app.inject({ url: '/metrics' })
    expect(response.headers['content-type']).toMatch(/^text\/plain; version=0.0.4/)
    for (const line of [
      'gen_ai_server_request_duration_seconds_count{gen_ai_operation_name="text_completion",gen_ai_request_model="letters",outcome="finished"} 1',
      'gen_ai_server_time_to_first_token_seconds_count{gen_ai_operation_name="text_completion",gen_ai_request_model="letters"} 1',
      'gen_ai_server_time_per_output_token_seconds_count{gen_ai_operation_name="text_completion",gen_ai_request_model="letters"} 1',
      'kvasir_tokens_total{kind="prompt"} 2',
      'kvasir_tokens_total{kind="completion"} 2',
      'kvasir_kv_moved_bytes_total 4096',
      'kvasir_requests_queued 3',
      'kvasir_requests_active 2',
      'kvasir_devices{state="ready"} 1',
      'kvasir_devices{state="lost"} 0',
      'kvasir_tier_capacity_bytes{device="gpu-0",tier="hbm",kind="hbm"} 1000',
      'kvasir_tier_leased_bytes{device="gpu-0",tier="hbm",kind="hbm"} 250',
      'kvasir_tier_cached_bytes{device="gpu-0",tier="hbm",kind="hbm"} 500',
      'kvasir_tier_lookups_total{device="gpu-0",tier="hbm",kind="hbm"} 20',
      'kvasir_tier_hits_total{device="gpu-0",tier="hbm",kind="hbm"} 15',
      'kvasir_tier_in_bytes_total{device="gpu-0",tier="hbm",kind="hbm"} 300',
      'kvasir_tier_out_bytes_total{device="gpu-0",tier="hbm",kind="hbm"} 400',
      'kvasir_tier_read_bytes_total{device="gpu-0",tier="hbm",kind="hbm"} 9000',
      'kvasir_tier_dropped_blocks_total{device="gpu-0",tier="hbm",kind="hbm"} 2',
      'kvasir_paced_steps_total{device="gpu-0",paced_as="a100"} 50',
      'kvasir_paced_busy_seconds_total{device="gpu-0",paced_as="a100"} 4',
      'kvasir_paced_late_steps_total{device="gpu-0",paced_as="a100"} 2',
      'kvasir_paced_late_seconds_total{device="gpu-0",paced_as="a100"} 0.03',
      'kvasir_kv_directory_blocks{device="gpu-0"} 7',
      'kvasir_kv_directory_dropped_total 5',
      'kvasir_kv_directory_healing 1',
    ]) {
      expect(response.body.split('\n')).toContain(line)
    }
    expect(response.body).toMatch(/^process_cpu_seconds_total /m)
    await gateway.close()
  })
})

describe('API keys', () => {
  test('are asked for everywhere but at the probes, and decide the tenant’s salt', async () => {
    const gateway = await testGateway({ apiKeys: [KEY, 'another-key'] })
    gateway.service.onSubmit = (generation) => generation.finish()
    for (const url of ['/v1/models', '/v1/cluster', '/metrics', '/v1/traces', '/nothing']) {
      const response = await gateway.app.inject({ url })
      expect(response.statusCode).toBe(401)
      expect(response.json().error).toMatchObject({ type: 'authentication_error', code: 'invalid_api_key' })
    }
    expect((await complete(gateway, 'wrong-key')).statusCode).toBe(401)
    expect((await gateway.app.inject({ url: '/health/ready' })).statusCode).toBe(200)
    for (const key of [KEY, 'another-key', KEY]) await complete(gateway, key)
    const salts = gateway.service.submitted.map(({ request }) =>
      Buffer.from(request.tenantSalt).toString('hex'),
    )
    expect(salts[0]).toMatch(/^[0-9a-f]{32}$/)
    expect(salts[0]).toBe(salts[2])
    expect(salts[0]).not.toBe(salts[1])
    await gateway.close()
  })

  test('agents post traces without one, under a path that only the bus tells', async () => {
    const gateway = await testGateway({ apiKeys: [KEY] })
    const post = (url: string) => gateway.app.inject({ method: 'POST', url, payload: { resourceSpans: [] } })
    expect((await post(`${gateway.intakePath}/v1/traces`)).statusCode).toBe(200)
    expect((await post('/v1/traces')).statusCode).toBe(401)
    expect((await post(`/intake/${'0'.repeat(32)}/v1/traces`)).statusCode).toBe(401)
    await gateway.close()
  })
})

describe('traces', () => {
  test('spans of agents come in as OTLP JSON and are found by trace and request', async () => {
    const gateway = await testGateway()
    const span = (spanId: string, name: string, parentSpanId?: string) => ({
      traceId: 'a'.repeat(32),
      spanId,
      parentSpanId,
      name,
      kind: 1,
      startTimeUnixNano: '1000',
      endTimeUnixNano: '2000',
      attributes: [{ key: 'kvasir.request_id', value: { stringValue: 'req-1' } }],
    })
    const response = await gateway.app.inject({
      method: 'POST',
      url: '/v1/traces',
      payload: {
        resourceSpans: [
          {
            resource: { attributes: [{ key: 'service.name', value: { stringValue: 'gpu-agent' } }] },
            scopeSpans: [
              {
                spans: [
                  span('1'.repeat(16), 'request'),
                  span('2'.repeat(16), 'x', '1'.repeat(16)),
                  { traceId: 'bad' },
                ],
              },
            ],
          },
        ],
      },
    })
    expect(response.json()).toEqual({
      partialSuccess: { rejectedSpans: 1, errorMessage: expect.stringMatching(/traceId/) },
    })
    const byRequest = (await gateway.app.inject({ url: '/v1/traces/req-1' })).json()
    expect(byRequest).toMatchObject({ traceId: 'a'.repeat(32), requestId: 'req-1', complete: true })
    expect(byRequest.spans).toHaveLength(2)
    expect((await gateway.app.inject({ url: `/v1/traces/${'A'.repeat(32)}?wait=50` })).json()).toEqual(
      byRequest,
    )
    expect((await gateway.app.inject({ url: '/v1/traces?limit=5' })).json().data).toMatchObject([
      { traceId: 'a'.repeat(32), requestIds: ['req-1'], spanCount: 2, error: false },
    ])
    await gateway.close()
  })

  test("the bound of prompts is none of an agent's batch of spans", async () => {
    const limits = {
      bodyBytesMax: 1_024,
      uploadBytesMax: 1_024,
      streamBufferBytesMax: 65_536,
      streamDrainMs: 2_000,
    }
    const gateway = await testGateway({ limits })
    const values = Array.from({ length: 4_096 }, (_, i) => ({ intValue: String(i * 4_000) }))
    const spans = Array.from({ length: 32 }, (_, i) => ({
      traceId: 'a'.repeat(32),
      spanId: (i + 1).toString(16).padStart(16, '0'),
      name: 'decode.run',
      startTimeUnixNano: '1000',
      endTimeUnixNano: '2000',
      attributes: [{ key: 'kvasir.decode.token_us', value: { arrayValue: { values } } }],
    }))
    const payload = { resourceSpans: [{ scopeSpans: [{ spans }] }] }
    const response = await gateway.app.inject({ method: 'POST', url: '/v1/traces', payload })
    expect(response.statusCode).toBe(200)
    await gateway.close()
  })

  test('what is no OTLP JSON is refused with a reason', async () => {
    const gateway = await testGateway()
    const post = (payload: string, headers: Record<string, string>) =>
      gateway.app.inject({ method: 'POST', url: '/v1/traces', payload, headers })
    const protobuf = await post('\x0a\x00', { 'content-type': 'application/x-protobuf' })
    expect(protobuf.statusCode).toBe(415)
    expect(protobuf.json().error.message).toMatch(/http\/json/)
    const gzip = await post('x', { 'content-type': 'application/json', 'content-encoding': 'gzip' })
    expect(gzip.statusCode).toBe(415)
    const list = await post('{"resourceSpans": 5}', { 'content-type': 'application/json' })
    expect(list.statusCode).toBe(400)
    expect((await gateway.app.inject({ url: '/v1/traces/none' })).statusCode).toBe(404)
    expect((await gateway.app.inject({ url: '/v1/traces/none?wait=x' })).json().error.param).toBe('wait')
    await gateway.close()
  })

  test('a request’s own spans: the caller’s trace, the root over the whole response, prepare below it', async () => {
    const traces = testTraceStore()
    const telemetry = startTelemetry({
      service: 'coordinator',
      instance: 'c1',
      exporter: createStoreExporter((spans) => traces.add(spans)),
    })
    const gateway = await testGateway({ traces })
    gateway.service.onSubmit = (generation) => {
      generation.tokens(wordId('Hello'))
      generation.tokens(wordId('!'))
      generation.finish()
    }
    const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
    const response = await gateway.app.inject({
      method: 'POST',
      url: '/v1/completions',
      headers: { traceparent: `00-${traceId}-00f067aa0ba902b7-01` },
      payload: { model: 'letters', prompt: 'hi', stream: true, seed: 5 },
    })
    expect(response.headers['x-kvasir-trace-id']).toBe(traceId)
    const refused = await gateway.app.inject({
      method: 'POST',
      url: '/v1/completions',
      payload: { model: 'none', prompt: 'hi' },
    })
    await telemetry.close()

    const trace = traces.find(String(response.headers['x-kvasir-request-id']))
    expect(trace).toMatchObject({ traceId, complete: true })
    const [root, prepare] = trace?.spans ?? []
    expect(root).toMatchObject({
      name: 'request',
      kind: 'server',
      parentSpanId: '00f067aa0ba902b7',
      service: 'coordinator',
      instance: 'c1',
      status: { code: 'unset' },
      attributes: {
        'gen_ai.operation.name': 'text_completion',
        'gen_ai.request.model': 'letters',
        'gen_ai.request.seed': 5,
        'gen_ai.response.finish_reasons': ['length'],
        'gen_ai.usage.input_tokens': 2,
        'gen_ai.usage.output_tokens': 2,
        'http.response.status_code': 200,
        'kvasir.ttft_ms': expect.any(Number),
        'kvasir.tpot_ms': expect.any(Number),
      },
    })
    expect(prepare).toMatchObject({
      name: 'prepare',
      parentSpanId: root?.spanId,
      attributes: { 'kvasir.tokens': 2 },
    })
    expect(BigInt(root?.endUnixNano ?? 0)).toBeGreaterThanOrEqual(BigInt(prepare?.endUnixNano ?? 0))

    // A client's mistake is traced, and no error of the server.
    const other = traces.find(String(refused.headers['x-kvasir-trace-id']))
    expect(other?.spans).toMatchObject([
      {
        name: 'request',
        status: { code: 'unset' },
        attributes: { 'http.response.status_code': 404, 'error.type': 'model_not_found' },
      },
    ])
    await gateway.close()
  })
})

function complete(gateway: Awaited<ReturnType<typeof testGateway>>, key = '') {
  return gateway.app.inject({
    method: 'POST',
    url: '/v1/completions',
    headers: { authorization: `Bearer ${key}` },
    payload: { model: 'letters', prompt: 'hi' },
  })
}
