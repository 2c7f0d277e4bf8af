import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { OverloadedError, UnavailableError } from '@kvasir/runtime/errors'
import OpenAI from 'openai'
import { afterEach, describe, expect, test } from 'vitest'
import { LONG_WORD_BYTES, LONG_WORD_ID, wordId } from './testing/letter-model.js'
import { type TestGateway, testGateway } from './testing/test-gateway.js'

let gateway: TestGateway
const sockets: Socket[] = []

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy()
  await gateway.close()
})

async function start(...options: Parameters<typeof testGateway>) {
  gateway = await testGateway(...options)
  await gateway.serve()
}

/** Sends a request on a bare socket, which reads nothing by itself. */
async function rawPost(body: object): Promise<Socket> {
  const socket = connect(Number(new URL(gateway.url).port), '127.0.0.1')
  sockets.push(socket)
  socket.on('error', () => {})
  await once(socket, 'connect')
  const json = JSON.stringify({ model: 'letters', prompt: 'hi', ...body })
  socket.write(
    `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${json.length}\r\n\r\n${json}`,
  )
  return socket
}

test.each([
  ['no HTTP', 'GARBAGE\r\n\r\n', 400, 'invalid_http'],
  ['headers without end', `GET / HTTP/1.1\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`, 431, 'headers_too_large'],
])(
  '%s gets an error in the shape of all others, and the connection ends',
  async (_what, bytes, status, code) => {
    await start()
    const socket = connect(Number(new URL(gateway.url).port), '127.0.0.1')
    sockets.push(socket)
    socket.on('error', () => {})
    socket.write(bytes)
    let answer = ''
    for await (const chunk of socket) answer += chunk
    const [head = '', body = ''] = answer.split('\r\n\r\n')
    expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} [^]*x-kvasir-request-id: req-`))
    expect(JSON.parse(body).error).toMatchObject({ code, type: 'invalid_request_error', param: null })
  },
)

describe('a client that goes away', () => {
  test.each([
    ['in the middle of a stream', true],
    ['while it waits for the whole answer', false],
  ])('%s cancels the generation', async (_when, stream) => {
    await start()
    const socket = await rawPost({ stream })
    const generation = await gateway.service.next()
    generation.tokens(wordId('Hello'))
    if (stream) await once(socket.resume(), 'data')
    socket.destroy()
    expect(await generation.cancelled).toBe('client-gone')
    await expect.poll(() => metric('kvasir_requests_ended_total{outcome="client_gone"}')).toBe(1)
    expect(await metric('kvasir_requests_in_flight')).toBe(0)
  })

  test('before the first token cancels it too', async () => {
    await start()
    const socket = await rawPost({ stream: true })
    const generation = await gateway.service.next()
    socket.destroy()
    expect(await generation.cancelled).toBe('client-gone')
  })

  test('the openai client aborts', async () => {
    await start()
    const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'unused' })
    const stream = client.chat.completions.stream({
      model: 'letters',
      messages: [{ role: 'user', content: 'hi' }],
    })
    const generation = await gateway.service.next()
    generation.tokens(wordId('Hello'))
    await stream.emitted('content')
    stream.abort()
    expect(await generation.cancelled).toBe('client-gone')
    await expect(stream.done()).rejects.toThrow()
  })
})

describe('a client that does not read', () => {
  test('is buffered to the bound, then cut off, and the generation cancelled', async () => {
    await start()
    const socket = await rawPost({ stream: true })
    socket.pause()
    const generation = await gateway.service.next()
    let cause: string | undefined
    void generation.cancelled.then((why) => {
      cause = why
    })
    // More than the sockets' own buffers of both ends hold.
    for (let sentBytes = 0; cause === undefined && sentBytes < 256e6; sentBytes += LONG_WORD_BYTES) {
      generation.tokens(LONG_WORD_ID)
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(await generation.cancelled).toBe('slow-client')
    await expect.poll(() => metric('kvasir_requests_ended_total{outcome="slow_client"}')).toBe(1)
  })

  test('has a bounded time for the rest after the end', async () => {
    await start({
      limits: {
        bodyBytesMax: 100_000,
        uploadBytesMax: 100_000,
        streamBufferBytesMax: 1e9,
        streamDrainMs: 100,
      },
    })
    const socket = await rawPost({ stream: true })
    socket.pause()
    const generation = await gateway.service.next()
    for (let i = 0; i < 400; i++) generation.tokens(LONG_WORD_ID)
    generation.finish()
    await expect.poll(() => metric('kvasir_requests_in_flight'), { timeout: 5_000 }).toBe(0)
  })
})

describe('errors of the serving side', () => {
  test('before the first token are a status with Retry-After, for streams too', async () => {
    await start()
    gateway.service.onSubmit = (generation) =>
      generation.fail(new UnavailableError('No device can serve this now.', { retryAfterMs: 2_500 }))
    for (const stream of [false, true]) {
      const response = await post({ stream })
      expect(response.statusCode).toBe(503)
      expect(response.headers['retry-after']).toBe('3')
      expect(response.json().error).toEqual({
        message: 'No device can serve this now.',
        type: 'service_unavailable_error',
        param: null,
        code: 'unavailable',
      })
    }
  })

  test('a refused submission', async () => {
    await start()
    gateway.service.onSubmit = () => {
      throw new OverloadedError('Too many requests wait.')
    }
    const response = await post({})
    expect(response.statusCode).toBe(503)
    expect(response.headers['retry-after']).toBe('1')
  })

  test('in mid-stream are an event, after which the stream ends', async () => {
    await start()
    gateway.service.onSubmit = (generation) => {
      generation.tokens(wordId('Hello'))
      generation.fail(new UnavailableError('Every device is lost.'))
    }
    const response = await post({ stream: true })
    const events = response.body.trim().split('\n\n')
    expect(response.statusCode).toBe(200)
    expect(JSON.parse(events.at(-1)?.slice(6) ?? '').error.message).toBe('Every device is lost.')
    const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'unused' })
    const stream = await client.completions.create({ model: 'letters', prompt: 'hi', stream: true })
    await expect(collect(stream)).rejects.toThrow('Every device is lost.')
  })

  test('faults of ours say nothing of the inside', async () => {
    await start()
    gateway.service.onSubmit = (generation) => generation.fail(new TypeError('secret is undefined'))
    const response = await post({})
    expect(response.statusCode).toBe(500)
    expect(response.json().error.type).toBe('server_error')
    expect(response.body).not.toContain('secret')
  })

  test('a generation that ends without a reason is a fault', async () => {
    await start()
    gateway.service.onSubmit = (generation) => void setImmediate(() => generation.fail(new Error('x')))
    expect((await post({})).statusCode).toBe(500)
  })
})

describe('draining', () => {
  test('finishes what runs, refuses what comes, stops what takes too long', async () => {
    await start()
    const running = post({ stream: true })
    const generation = await gateway.service.next()
    generation.tokens(wordId('Hello'))
    const drained = gateway.drain(300)
    const refused = await post({})
    expect(refused.statusCode).toBe(503)
    expect((await gateway.app.inject({ url: '/health/ready' })).statusCode).toBe(503)
    expect((await gateway.app.inject({ url: '/health/live' })).statusCode).toBe(200)
    await drained
    expect(await generation.cancelled).toBe('client-gone')
    expect((await running).body).toMatch(/shutting down/)
  })

  test('ends as soon as the last request has ended', async () => {
    await start()
    const running = post({})
    const generation = await gateway.service.next()
    const drained = gateway.drain(60_000)
    generation.tokens(wordId('Hello'))
    generation.finish()
    expect((await running).statusCode).toBe(200)
    await drained
  })
})

function post(body: object) {
  return gateway.app.inject({
    method: 'POST',
    url: '/v1/completions',
    payload: { model: 'letters', prompt: 'hi', ...body },
  })
}

async function metric(line: string): Promise<number | undefined> {
  const { body } = await gateway.app.inject({ url: '/metrics' })
  const found = body.split('\n').find((candidate) => candidate.startsWith(`${line} `))
  return found === undefined ? undefined : Number(found.slice(line.length + 1))
}

async function collect(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream) {
    // Only the end matters.
  }
}
