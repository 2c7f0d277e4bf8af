import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { type GenerationResult, generate, tpotMsOf, ttftMsOf } from './generation.js'

let server: http.Server | undefined
let body: Record<string, unknown>

afterEach(() => {
  server?.closeAllConnections()
  server?.close()
})

/** A server that answers each request with these parts; the last one undefined cuts the connection. */
async function serve(status: number, parts: readonly (string | undefined)[]): Promise<string> {
  server = http.createServer(async (request, response) => {
    let text = ''
    for await (const part of request) text += part
    body = JSON.parse(text)
    response.writeHead(status, { 'x-kvasir-request-id': 'req-1', 'x-kvasir-trace-id': 'abc' })
    for (const part of parts) {
      if (part === undefined) response.destroy()
      else await new Promise((written) => response.write(part, written))
    }
    response.end()
  })
  await new Promise<void>((done) => server?.listen(0, '127.0.0.1', done))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const event = (chunk: object) => `data: ${JSON.stringify(chunk)}\n\n`
const text = (piece: string, ids: number[]) =>
  event({ choices: [{ index: 0, text: piece, token_ids: ids, finish_reason: null }] })
const end = [
  event({ choices: [{ index: 0, text: '', finish_reason: 'stop' }], kvasir: { numerics_changed: true } }),
  event({
    choices: [],
    usage: { prompt_tokens: 3, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 2 } },
  }),
  'data: [DONE]\n\n',
]
const wish = { model: 'skald', prompt: [1, 2, 3], chat: false, maxTokens: 8, temperature: 0, ignoreEos: true }

async function run(url: string, pieces: string[] = []): Promise<GenerationResult> {
  return generate(url, wish, new AbortController().signal, (piece) => pieces.push(piece))
}

test('a stream is read with its tokens, ids and usage', async () => {
  const url = await serve(200, [text('one', [7]), text(' two', [8, 9]), ...end])
  const pieces: string[] = []
  const result = await run(url, pieces)
  expect(body).toMatchObject({ prompt: [1, 2, 3], max_tokens: 8, ignore_eos: true, stream: true })
  expect(pieces).toEqual(['one', ' two'])
  expect(result).toMatchObject({
    requestId: 'req-1',
    traceId: 'abc',
    text: 'one two',
    tokens: [7, 8, 9],
    finishReason: 'stop',
    numericsChanged: true,
    usage: { promptTokens: 3, completionTokens: 3, cachedTokens: 2 },
  })
  expect(result.tokenMs).toHaveLength(3)
})

test("errors say the server's sentence, before and in the stream", async () => {
  const error = { error: { message: 'No device is free. Try again.', type: 'unavailable' } }
  await expect(run(await serve(503, [JSON.stringify(error)]))).rejects.toThrow(
    'No device is free. Try again.',
  )
  await expect(run(await serve(200, [text('one', [7]), event(error)]))).rejects.toThrow(/No device is free/)
  await expect(run(await serve(400, ['not json']))).rejects.toThrow(/HTTP 400/)
})

test('a stream that breaks off or has no end is an error', async () => {
  await expect(run(await serve(200, [text('one', [7]), undefined]))).rejects.toThrow(/broke off/)
  await expect(run(await serve(200, [text('one', [7])]))).rejects.toThrow(/without a finish reason/)
})

test('nothing that answers: the next step is named', async () => {
  const url = await serve(200, [])
  server?.close()
  await expect(run(url)).rejects.toThrow(/Nothing answers at .*kvasir status/)
})

test('times to the first token and between tokens', () => {
  expect(ttftMsOf({ tokenMs: [] })).toBeUndefined()
  expect(ttftMsOf({ tokenMs: [12, 14] })).toBe(12)
  expect(tpotMsOf({ tokenMs: [12] })).toBeUndefined()
  expect(tpotMsOf({ tokenMs: [10, 12, 16] })).toBe(3)
})
