/** How a request says how it stands to others, and what one is told that gives way. */
import { afterEach, describe, expect, test } from 'vitest'
import { ShedError } from '../shed-error.js'
import { scriptedService } from './testing/scripted-service.js'
import { type TestGateway, testGateway } from './testing/test-gateway.js'

let gateway: TestGateway | undefined

afterEach(async () => {
  await gateway?.close()
  gateway = undefined
})

/** Answers every request at once. */
async function answeringGateway(overrides: Parameters<typeof testGateway>[0] = {}): Promise<TestGateway> {
  const service = scriptedService()
  service.onSubmit = (generation) => {
    generation.tokens(65)
    generation.finish()
  }
  return testGateway({ service, ...overrides })
}

const CHAT = { model: 'letters', messages: [{ role: 'user', content: 'hi' }], max_tokens: 2 }
const TEXT = { model: 'letters', prompt: 'hi', max_tokens: 2 }

async function post(body: object, headers: Record<string, string> = {}) {
  gateway ??= await answeringGateway()
  const url = 'messages' in body ? '/v1/chat/completions' : '/v1/completions'
  return gateway.app.inject({ method: 'POST', url, headers, payload: body })
}

describe('a request may say', () => {
  test.each([
    ['chat', CHAT],
    ['text', TEXT],
  ])('how urgent it is and until when it is of use: %s', async (_kind, body) => {
    const response = await post({ ...body, priority: -3, slo: { ttft_ms: 250 } })
    expect(response.statusCode).toBe(200)
    expect(gateway?.service.submitted.at(-1)?.request).toMatchObject({ priority: -3, ttftDeadlineMs: 250 })
  })

  test('nothing, and is then like all others', async () => {
    await post({ ...CHAT, priority: null, slo: null })
    const request = gateway?.service.submitted.at(-1)?.request
    expect(request).toMatchObject({ tenant: '', priority: 0 })
    expect(request?.ttftDeadlineMs).toBeUndefined()
  })

  test('its deadline in a header, unless the body has one', async () => {
    await post(CHAT, { 'x-slo-ttft-ms': '400' })
    expect(gateway?.service.submitted.at(-1)?.request.ttftDeadlineMs).toBe(400)
    await post({ ...CHAT, slo: { ttft_ms: 90 } }, { 'x-slo-ttft-ms': '400' })
    expect(gateway?.service.submitted.at(-1)?.request.ttftDeadlineMs).toBe(90)
  })

  test.each([
    ['a word for a priority', { priority: 'high' }, 'priority'],
    ['half a priority', { priority: 1.5 }, 'priority'],
    ['a priority above all', { priority: 11 }, 'priority'],
    ['a priority below all', { priority: -11 }, 'priority'],
    ['a negative deadline', { slo: { ttft_ms: -5 } }, 'slo.ttft_ms'],
    ['a deadline of nothing', { slo: { ttft_ms: 0 } }, 'slo.ttft_ms'],
    ['a deadline in words', { slo: { ttft_ms: 'soon' } }, 'slo.ttft_ms'],
    ['a deadline for something else', { slo: { tpot_ms: 5 } }, 'slo.tpot_ms'],
    ['a deadline that is no object', { slo: 500 }, 'slo'],
  ])('%s only by mistake', async (_what, fields, param) => {
    for (const body of [CHAT, TEXT]) {
      const response = await post({ ...body, ...fields })
      expect(response.statusCode).toBe(400)
      expect(response.json().error).toMatchObject({ type: 'invalid_request_error', param })
    }
    expect(gateway?.service.submitted).toHaveLength(0)
  })

  test.each(['-5', 'soon', '', '0', 'NaN', 'Infinity'])(
    '"%s" in the header only by mistake',
    async (text) => {
      const response = await post(CHAT, { 'x-slo-ttft-ms': text })
      expect(response.statusCode).toBe(400)
      expect(response.json().error).toMatchObject({
        param: 'x-slo-ttft-ms',
        message: /give milliseconds from 1/,
      })
    },
  )
})

describe('the tenant of a request', () => {
  test('is what it says of its user where everyone is let in, to a length', async () => {
    await post({ ...CHAT, user: 'anna' })
    expect(gateway?.service.submitted.at(-1)?.request.tenant).toBe('anna')
    await post({ ...CHAT, user: 'x'.repeat(10_000) })
    expect(gateway?.service.submitted.at(-1)?.request.tenant).toHaveLength(128)
  })

  test('is its key where there are keys, whatever it says', async () => {
    gateway = await answeringGateway({ apiKeys: ['first-key', 'second-key'] })
    await post({ ...CHAT, user: 'key-1' }, { authorization: 'Bearer second-key' })
    expect(gateway.service.submitted.at(-1)?.request.tenant).toBe('key-2')
  })
})

describe('a request that is shed', () => {
  test.each([
    ['late', 'deadline_unmeetable'],
    ['missed', 'deadline_unmeetable'],
    ['priority', 'shed'],
    ['share', 'shed'],
  ] as const)('as %s gets a 429 that says when to come back', async (reason, code) => {
    const service = scriptedService()
    service.onSubmit = () => {
      throw new ShedError('It gave way; try again in 3 s.', reason, 'request', 2_400)
    }
    gateway = await testGateway({ service })
    const response = await post(CHAT)
    expect(response.statusCode).toBe(429)
    expect(response.headers['retry-after']).toBe('3')
    expect(response.json().error).toMatchObject({
      ...{ code, type: 'rate_limit_error', message: 'It gave way; try again in 3 s.' },
    })
    const metrics = await gateway.app.inject({ method: 'GET', url: '/metrics' })
    expect(metrics.body).toContain(`kvasir_admission_total{outcome="${reason}"} 1`)
    expect(metrics.body).toContain('kvasir_requests_ended_total{outcome="shed"} 1')
  })

  test('is counted apart from those that are served', async () => {
    await post({ ...CHAT, priority: 4 })
    const metrics = await gateway?.app.inject({ method: 'GET', url: '/metrics' })
    expect(metrics?.body).toContain('kvasir_admission_total{outcome="served"} 1')
    expect(metrics?.body).toContain('kvasir_admission_total{outcome="late"} 0')
  })
})
