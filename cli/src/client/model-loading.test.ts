import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { followLoad } from './model-loading.js'
import type { ModelDevice } from './models.js'

const device = (device_id: string, fields: Partial<ModelDevice> = {}): ModelDevice => ({
  device_id,
  profile: 'exact',
  state: 'loading',
  numerics: null,
  weight_bytes: null,
  kv_bytes: null,
  bytes: 0,
  bytes_total: 0,
  source_device_id: null,
  error: null,
  ...fields,
})
const begun = {
  model: 'tale',
  profile: 'exact',
  devices: ['gpu-0', 'fpga-0'].map((device_id) => ({ device_id, error: null as string | null })),
}

/** What the cluster says, once for each time it is asked; the last for ever. */
let answers: { chat: boolean | null; devices: readonly ModelDevice[] }[]
let server: Server
let url: string

beforeEach(async () => {
  server = createServer((_request, response) => {
    const kvasir = answers.length > 1 ? answers.shift() : answers[0]
    response.end(JSON.stringify({ data: [{ id: 'tale', kvasir }] }))
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterEach(() => server.close())

const never = new AbortController().signal

test('it ends when each device has it or failed, and the model can be asked for', async () => {
  const loaded = device('gpu-0', { state: 'loaded' })
  answers = [
    { chat: null, devices: [] },
    { chat: null, devices: [device('gpu-0', { state: 'fetching', bytes: 1, bytes_total: 4 })] },
    { chat: null, devices: [loaded, device('fpga-0')] },
    { chat: null, devices: [loaded, device('fpga-0', { state: 'failed', error: 'It lacks 3 GB.' })] },
    { chat: false, devices: [loaded] },
  ]
  const shown: string[] = []
  const outcomes = await followLoad(url, begun, never, (progress) =>
    shown.push(progress.map(({ now }) => now?.state ?? '?').join(' ')),
  )
  expect(outcomes).toEqual([
    { deviceId: 'gpu-0', state: 'loaded', error: null },
    { deviceId: 'fpga-0', state: 'failed', error: 'It lacks 3 GB.' },
  ])
  expect(shown).toEqual(['? ?', 'fetching ?', 'loaded loading', 'loaded failed', 'loaded ?'])
})

test('what was refused is told at once, without waiting for a tokenizer', async () => {
  answers = [{ chat: null, devices: [] }]
  const refused = { ...begun, devices: [{ device_id: 'gpu-0', error: 'It lacks 3 GB.' }] }
  expect(await followLoad(url, refused, never)).toEqual([
    { deviceId: 'gpu-0', state: 'failed', error: 'It lacks 3 GB.' },
  ])
})

test('the same model in other numerics is not the one that was asked for', async () => {
  const paper = { state: 'loaded' as const, profile: 'paper' }
  answers = [
    { chat: true, devices: [device('gpu-0', paper), device('fpga-0', paper)] },
    { chat: true, devices: [device('gpu-0', { state: 'loaded' }), device('fpga-0', { state: 'loaded' })] },
  ]
  let polls = 0
  await followLoad(url, begun, never, () => {
    polls += 1
  })
  expect(polls).toBe(2)
})

test('an interrupted one ends with the reason', async () => {
  answers = [{ chat: null, devices: [device('gpu-0')] }]
  const interrupted = new AbortController()
  const following = followLoad(url, begun, interrupted.signal, () =>
    interrupted.abort(new Error('interrupted')),
  )
  await expect(following).rejects.toThrow('interrupted')
})
