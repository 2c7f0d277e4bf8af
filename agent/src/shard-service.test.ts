/** A device that searches shards of corpora, against owners that do well and badly. */
import type { KernelName } from '@kvasir/engine/kernels'
import { SmallCorpus } from '@kvasir/engine/testing/small-corpus'
import type { Shard } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { deferred } from '@kvasir/runtime/deferred'
import { NotFoundError } from '@kvasir/runtime/errors'
import { callUnary } from '@kvasir/runtime/rpc-client'
import type { RpcServer } from '@kvasir/runtime/rpc-server'
import { afterEach, expect, test } from 'vitest'
import {
  chunkOf,
  type Exporting,
  type SearchingDevice,
  startOwner,
  startSearchingDevice,
} from './testing/shard-devices.js'

const corpus = SmallCorpus.of(['wing flow', 'heat', 'flow of heat', 'plate', 'wing wing heat'])
const cleanups: (() => Promise<void>)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

const shardOf = (version = 1n, firstDocument = 0, documentCount = 5, name = 'papers'): Shard => ({
  corpus: { name, tenantSalt: Buffer.alloc(0) },
  version,
  firstDocument,
  documentCount,
})
const bytesOf = ({ firstDocument, documentCount }: Shard) => corpus.shard(firstDocument, documentCount).bytes
const whole = bytesOf(shardOf())

const wellDone: Exporting = async ({ shard }, send) => {
  const bytes = bytesOf(shard ?? shardOf())
  for (let at = 0; at < bytes.length; at += 50) await send(chunkOf(bytes.subarray(at, at + 50)))
}

async function start(
  exporting: Exporting,
  options: { shardBytes?: number; before?: (kernel: KernelName) => Promise<void> } = {},
): Promise<{ device: SearchingDevice; owner: RpcServer }> {
  const owner = await startOwner(exporting)
  const device = await startSearchingDevice(options.shardBytes ?? 1 << 20, options.before)
  cleanups.push(
    () => owner.close(),
    () => device.close(),
  )
  return { device, owner }
}

type Started = Awaited<ReturnType<typeof start>>

const load = ({ device, owner }: Started, shard = shardOf(), settings = {}) =>
  callUnary(
    device.client,
    'load',
    { shard, sourceDeviceId: 'owner', sourceEndpoint: owner.address },
    settings,
  )

function retrieve({ device }: Started, text: string, shard = shardOf(), k = 10) {
  const { terms, weights, meanLength } = corpus.query(text, k)
  const weighed = Array.from(terms, (term, index) => ({ term, weight: weights[index] ?? 0 }))
  return callUnary(device.client, 'retrieve', { shard, terms: weighed, meanLength, k })
}

const used = ({ device }: Started) => Number(device.serving.loadReport(1n).corpusBytesUsed)
const fails = (code: string, message = '') =>
  expect.objectContaining({ code, message: expect.stringContaining(message) })

test('a shard is fetched, held, searched and let go', async () => {
  const started = await start(wellDone)
  expect(started.device.serving.advertisement().corpusBytes).toBe(1n << 20n)
  expect(used(started)).toBe(0)
  const { bytes } = await load(started)
  expect([Number(bytes), used(started)]).toEqual([whole.length, whole.length])
  expect(await load(started)).toEqual({ bytes })

  const { documents } = await retrieve(started, 'wing heat')
  const expected = corpus.search('wing heat', 10)
  expect(documents).toEqual(
    Array.from(expected.documents, (document, rank) => ({ document, score: expected.scores[rank] })),
  )
  const request = { corpus: shardOf().corpus, beforeVersion: 0n }
  expect(await callUnary(started.device.client, 'unload', request)).toEqual({ bytes })
  expect(used(started)).toBe(0)
  await expect(retrieve(started, 'wing')).rejects.toEqual(fails('not_found', 'load it there first'))
})

test('two shards give together what one gives', async () => {
  const started = await start(wellDone)
  await load(started, shardOf(1n, 0, 2))
  await load(started, shardOf(1n, 2, 3))
  const parts = [
    await retrieve(started, 'wing heat', shardOf(1n, 0, 2)),
    await retrieve(started, 'wing heat', shardOf(1n, 2, 3)),
  ].flatMap(({ documents }) => documents)
  parts.sort((a, b) => b.score - a.score || a.document - b.document)
  const expected = corpus.search('wing heat', 10)
  expect(parts.map(({ document }) => document)).toEqual([...expected.documents])
  expect(parts.map(({ score }) => score)).toEqual([...expected.scores])
})

test('calls for the same shard at once share one fetch', async () => {
  let exports = 0
  const started = await start(async (request, send, call) => {
    exports += 1
    await wellDone(request, send, call)
  })
  await Promise.all([load(started), load(started), load(started)])
  expect([exports, used(started)]).toEqual([1, whole.length])
})

test('what is damaged is refused, takes no room, and can be fetched again', async () => {
  const faults: Exporting[] = [
    async (_request, send) => send({ ...chunkOf(whole), checksum: 1n }),
    async (_request, send) =>
      send(chunkOf(whole.map((byte, at) => (at === whole.length - 1 ? byte ^ 1 : byte)))),
    async (_request, send) => send(chunkOf(whole.subarray(0, 100))),
    async (_request, send) => send(chunkOf(whole.subarray(0, 20))),
    async (_request, send) => {
      await send(chunkOf(whole))
      await send(chunkOf(whole))
    },
    async () => {},
    async (_request, send) => send(chunkOf(bytesOf(shardOf(1n, 1, 2)))),
    async (_request, send) => send(chunkOf(Buffer.from('something else entirely, and long enough for one'))),
  ]
  const started = await start((request, send, call) => (faults[0] ?? wellDone)(request, send, call))
  for (let left = faults.length; left > 0; left -= 1) {
    await expect(load(started)).rejects.toEqual(fails('corrupt'))
    expect(used(started)).toBe(0)
    faults.shift()
  }
  await load(started)
  expect((await retrieve(started, 'wing')).documents).toHaveLength(2)
})

test('what does not fit is refused before its bytes come', async () => {
  const started = await start(wellDone, { shardBytes: whole.length + 10 })
  await load(started)
  const other = shardOf(1n, 0, 5, 'other')
  await expect(load(started, other)).rejects.toEqual(fails('overloaded', 'shardBytes'))
  expect(used(started)).toBe(whole.length)
  // A new version takes the place of the one before.
  await load(started, shardOf(2n))
  expect(used(started)).toBe(whole.length)
  await expect(retrieve(started, 'wing')).rejects.toEqual(fails('not_found'))
  expect((await retrieve(started, 'wing', shardOf(2n))).documents).toHaveLength(2)
})

test('versions before one go, and only they', async () => {
  const started = await start(wellDone)
  for (const version of [1n, 2n, 3n]) await load(started, shardOf(version))
  const request = { corpus: shardOf().corpus, beforeVersion: 3n }
  const { bytes } = await callUnary(started.device.client, 'unload', request)
  expect(Number(bytes)).toBe(2 * whole.length)
  expect((await retrieve(started, 'wing', shardOf(3n))).documents).toHaveLength(2)
})

test('an owner that says no, is gone or silent fails the load, and nothing stays reserved', async () => {
  const asked = deferred<void>()
  const left = deferred<void>()
  const started = await start(async ({ shard }, send, { signal }) => {
    if (shard?.version === 1n) throw new NotFoundError('There is no such corpus.')
    await send(chunkOf(whole.subarray(0, 100)))
    asked.resolve()
    signal.addEventListener('abort', () => left.resolve())
    await left.promise
  })
  await expect(load(started)).rejects.toEqual(fails('not_found', 'no such corpus'))
  const stop = new AbortController()
  const silent = load(started, shardOf(2n), { signal: stop.signal })
  const cancelled = expect(silent).rejects.toEqual(fails('cancelled'))
  await asked.promise
  stop.abort()
  await cancelled
  // The fetch ends with its last caller, and so does the owner's call.
  await left.promise
  await expect.poll(() => used(started)).toBe(0)
  await started.owner.close()
  await expect(load(started, shardOf(3n))).rejects.toEqual(fails('unreachable'))
})

test('a shard is asked for again while its last fetch is being given up', async () => {
  const stop = new AbortController()
  const asked = deferred<void>()
  const held = deferred<void>()
  let exports = 0
  const started = await start(async (request, send, call) => {
    exports += 1
    if (exports > 1) return wellDone(request, send, call)
    await send(chunkOf(whole.subarray(0, 100)))
    asked.resolve()
    await held.promise
  })
  const first = load(started, shardOf(), { signal: stop.signal })
  const cancelled = expect(first).rejects.toEqual(fails('cancelled'))
  await asked.promise
  stop.abort()
  await cancelled
  expect(Number((await load(started)).bytes)).toBe(whole.length)
  expect([exports, used(started)]).toEqual([2, whole.length])
  held.resolve()
})

test('an unload ends a fetch that is under way', async () => {
  const asked = deferred<void>()
  const started = await start(async (_request, send, { signal }) => {
    await send(chunkOf(whole.subarray(0, 100)))
    asked.resolve()
    await new Promise((resolve) => signal.addEventListener('abort', resolve))
  })
  const loading = expect(load(started)).rejects.toEqual(fails('cancelled', 'unloaded'))
  await asked.promise
  await callUnary(started.device.client, 'unload', { corpus: shardOf().corpus, beforeVersion: 0n })
  await loading
  expect(used(started)).toBe(0)
})

test('a search ends at its deadline though the device stalls', async () => {
  const stalled = deferred<void>()
  const started = await start(wellDone, {
    before: (kernel) => (kernel === 'bm25-search' ? stalled.promise : Promise.resolve()),
  })
  await load(started)
  const { terms, weights, meanLength } = corpus.query('wing', 5)
  const request = {
    shard: shardOf(),
    terms: Array.from(terms, (term, index) => ({ term, weight: weights[index] ?? 0 })),
    meanLength,
    k: 5,
  }
  await expect(callUnary(started.device.client, 'retrieve', request, { timeoutMs: 100 })).rejects.toEqual(
    fails('deadline'),
  )
  stalled.resolve()
  expect((await retrieve(started, 'wing')).documents).toHaveLength(2)
})

test('requests that are wrong are refused with the name of the field', async () => {
  const started = await start(wellDone)
  await load(started)
  const ask = (change: object) =>
    callUnary(started.device.client, 'retrieve', {
      shard: shardOf(),
      terms: [],
      meanLength: 2,
      k: 5,
      ...change,
    })
  expect((await ask({})).documents).toEqual([])
  for (const [change, param] of [
    [{ shard: undefined }, 'shard'],
    [{ shard: { ...shardOf(), corpus: undefined } }, 'corpus'],
    [{ shard: { ...shardOf(), version: 0n } }, 'version'],
    [{ shard: { ...shardOf(), documentCount: 0 } }, 'document_count'],
    [{ k: 0 }, 'k'],
    [{ k: 1_001 }, 'k'],
    [{ terms: [{ term: 1, weight: -1 }] }, 'weights'],
  ] as const) {
    await expect(ask(change)).rejects.toEqual(expect.objectContaining({ code: 'invalid_input', param }))
  }
  const source = { sourceDeviceId: 'owner', sourceEndpoint: '' }
  await expect(callUnary(started.device.client, 'load', { shard: shardOf(), ...source })).rejects.toEqual(
    expect.objectContaining({ param: 'source_endpoint' }),
  )
  await expect(
    callUnary(started.device.client, 'prepare', { corpus: shardOf().corpus, query: 'x' }),
  ).rejects.toEqual(fails('unsupported', 'does not serve this call'))
})
