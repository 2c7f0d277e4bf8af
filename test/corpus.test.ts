/**
 * Corpora between real processes: documents and postings on a host agent, shards of them on FPGA agents, and what
 * breaks on the way. The coordinator's part is not here: this drives the agents as it does.
 */
import { checksumOf } from '@kvasir/agent/checksum'
import { corpusRefusals } from '@kvasir/agent/shard-refusals'
import {
  type CorpusRef,
  CorpusServiceClient,
  type IngestRequest,
  type PreparedQuery,
  type ScoredDocument,
  type Shard,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import { startBulkServer } from '@kvasir/runtime/bulk-server'
import { CorpusBulkService, shardExportClient } from '@kvasir/runtime/corpus-bulk'
import { deferred } from '@kvasir/runtime/deferred'
import { callClientStream, callServerStream, callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import { serverStream } from '@kvasir/runtime/rpc-server'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fpga, host, TestCluster } from './support/cluster.js'
import { libraryDocuments, libraryQueries } from './support/library.js'

const corpus: CorpusRef = { name: 'library', tenantSalt: Buffer.from('a tenant') }
const wanted = 20
let cluster: TestCluster
const clients = new Map<string, CorpusServiceClient>()

beforeAll(async () => {
  cluster = await TestCluster.start({ agents: [host(), fpga('fpga-0'), fpga('fpga-1')] })
  await callUnary(client('host-0'), 'create', corpus)
  const { added, rejected } = await ingest([jsonl(libraryDocuments)])
  expect([Number(added), Number(rejected)]).toEqual([libraryDocuments.length, 0])
})
afterAll(async () => {
  for (const each of clients.values()) each.close()
  await cluster?.stop()
})

function fact(name: string, key: 'control' | 'kv'): string {
  return String(cluster.ready.get(name)?.[key])
}

function client(name: string): CorpusServiceClient {
  const address = fact(name, 'control')
  const known = clients.get(address) ?? createRpcClient(CorpusServiceClient, address)
  clients.set(address, known)
  return known
}

const jsonl = (documents: readonly object[]) =>
  Buffer.from(documents.map((document) => `${JSON.stringify(document)}\n`).join(''))

/** In messages of a few hundred bytes. */
async function* messages(parts: readonly Buffer[]): AsyncGenerator<IngestRequest> {
  yield { corpus, jsonl: Buffer.alloc(0) }
  for (const part of parts) {
    for (let at = 0; at < part.length; at += 777) yield { jsonl: part.subarray(at, at + 777) }
  }
  yield { jsonl: Buffer.alloc(0), complete: true }
}
const ingest = (parts: readonly Buffer[]) => callClientStream(client('host-0'), 'ingest', messages(parts))

const prepare = (query: string) => callUnary(client('host-0'), 'prepare', { corpus, query })
const shardOf = (
  { version, documents }: PreparedQuery,
  first = 0,
  count = Number(documents) - first,
): Shard => ({
  corpus,
  version,
  firstDocument: first,
  documentCount: count,
})
const load = (name: string, shard: Shard, sourceEndpoint = fact('host-0', 'kv')) =>
  callUnary(client(name), 'load', { shard, sourceDeviceId: 'host-0', sourceEndpoint }, { timeoutMs: 20_000 })
const unload = (name: string) => callUnary(client(name), 'unload', { corpus, beforeVersion: 0n })

async function retrieve(name: string, shard: Shard, query: PreparedQuery): Promise<ScoredDocument[]> {
  const { terms, meanLength } = query
  return (await callUnary(client(name), 'retrieve', { shard, terms, meanLength, k: wanted })).documents
}

const merged = (parts: readonly ScoredDocument[][]) =>
  parts
    .flat()
    .sort((a, b) => b.score - a.score || a.document - b.document)
    .slice(0, wanted)

const fails = (code: string, message = '') =>
  expect.objectContaining({ code, message: expect.stringContaining(message) })

test('one shard, two shards and the owner give the same documents and bit-equal scores', async () => {
  const facts = await prepare('anything')
  const half = Math.floor(libraryDocuments.length / 2)
  const shards = [shardOf(facts), shardOf(facts, 0, half), shardOf(facts, half)] as const
  await Promise.all([load('fpga-0', shards[0]), load('fpga-0', shards[1]), load('fpga-1', shards[2])])
  for (const { text, best } of libraryQueries) {
    const query = await prepare(text)
    const owner = await retrieve('host-0', shards[0], query)
    expect(await retrieve('fpga-0', shards[0], query)).toEqual(owner)
    const parts = await Promise.all([
      retrieve('fpga-0', shards[1], query),
      retrieve('fpga-1', shards[2], query),
    ])
    expect(merged(parts)).toEqual(owner)
    const documents = owner.map(({ document }) => document)
    const found = await callUnary(client('host-0'), 'documents', {
      corpus,
      version: query.version,
      documents,
    })
    expect(found.documents[0]?.id).toBe(best)
    expect(found.documents.map(({ id }) => id)).toEqual(
      documents.map((number) => libraryDocuments[number]?._id),
    )
  }
})

test('a query without any known word finds nothing, and says how many words it had', async () => {
  const query = await prepare('zyzzyva, ¡qwrtz! 🙂')
  expect(query).toMatchObject({ terms: [], words: 2 })
  expect(await retrieve('host-0', shardOf(query), query)).toEqual([])
})

test('a query of common words alone is searched like any other', async () => {
  const query = await prepare('the of and to a')
  const owner = await retrieve('host-0', shardOf(query), query)
  expect(owner).toHaveLength(wanted)
  await load('fpga-0', shardOf(query))
  expect(await retrieve('fpga-0', shardOf(query), query)).toEqual(owner)
})

test('kill -9 of a device that searches: another gives the same from the owner', async () => {
  const query = await prepare('bees and honey in the garden')
  const half = Math.floor(libraryDocuments.length / 2)
  const second = shardOf(query, half)
  await load('fpga-1', second)
  const before = await retrieve('fpga-1', second, query)
  const dying = client('fpga-1')
  await cluster.kill('fpga-1')
  const { terms, meanLength } = query
  await expect(callUnary(dying, 'retrieve', { shard: second, terms, meanLength, k: wanted })).rejects.toEqual(
    fails('unreachable'),
  )
  await load('fpga-0', second)
  expect(await retrieve('fpga-0', second, query)).toEqual(before)
  expect(await retrieve('host-0', second, query)).toEqual(before)

  // What a device held has died with it.
  await cluster.startAgent('fpga-1')
  await expect(retrieve('fpga-1', second, query)).rejects.toEqual(fails('not_found', 'load it there first'))
  await load('fpga-1', second)
  expect(await retrieve('fpga-1', second, query)).toEqual(before)
})

test('a chunk that is damaged on the way fails the load; the device serves on', async () => {
  const query = await prepare('the old lighthouse')
  await unload('fpga-0')
  const owner = shardExportClient(fact('host-0', 'kv'))
  const damaging = await startBulkServer({
    host: '127.0.0.1',
    port: 0,
    services: [
      {
        definition: CorpusBulkService,
        implementation: {
          ...corpusRefusals('damaging'),
          export: serverStream(async (request, _call, send) => {
            for await (const { data, checksum } of callServerStream(owner, 'export', request)) {
              expect(checksumOf(data)).toBe(checksum)
              const bytes = Buffer.from(data)
              bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1
              await send({ data: bytes, checksum })
            }
          }),
        },
      },
    ],
  })
  await expect(load('fpga-0', shardOf(query), damaging.address)).rejects.toEqual(fails('corrupt', 'checksum'))
  expect(await unload('fpga-0')).toEqual({ bytes: 0n })
  const { bytes } = await load('fpga-0', shardOf(query))
  expect(await retrieve('fpga-0', shardOf(query), query)).toEqual(
    await retrieve('host-0', shardOf(query), query),
  )
  expect(await unload('fpga-0')).toEqual({ bytes })
  owner.close()
  await damaging.close()
})

test('kill -9 of the owner in the middle of an upload: afterwards the corpus is what it was', async () => {
  const query = await prepare('snow on the mountain pass')
  const before = await retrieve('host-0', shardOf(query), query)
  await load('fpga-0', shardOf(query))
  const sent = deferred<void>()
  async function* endless(): AsyncGenerator<IngestRequest> {
    yield { corpus, jsonl: Buffer.alloc(0) }
    for (let i = 0; ; i += 1) {
      yield { jsonl: jsonl([{ _id: `new-${i}`, text: 'snow snow snow '.repeat(100) }]) }
      if (i === 3_000) sent.resolve()
    }
  }
  const upload = expect(callClientStream(client('host-0'), 'ingest', endless())).rejects.toEqual(
    fails('unreachable'),
  )
  await sent.promise
  await cluster.kill('host-0')
  await upload
  // The shard that a device holds needs no owner.
  expect(await retrieve('fpga-0', shardOf(query), query)).toEqual(before)

  await cluster.startAgent('host-0')
  const again = await prepare('snow on the mountain pass')
  expect({ ...again, prepareUs: 0n }).toEqual({ ...query, prepareUs: 0n })
  expect(await retrieve('host-0', shardOf(again), again)).toEqual(before)
  const { added, corpus: after } = await ingest([jsonl([{ _id: 'new-0', text: 'snow' }])])
  expect(Number(added)).toBe(1)
  expect(after?.version).toBeGreaterThan(again.version)
})

test('an upload that ends before it is said to be complete adds nothing', async () => {
  async function* cutOff(): AsyncGenerator<IngestRequest> {
    yield { corpus, jsonl: jsonl([{ _id: 'cut', text: 'off' }]) }
  }
  const before = await prepare('off')
  await expect(callClientStream(client('host-0'), 'ingest', cutOff())).rejects.toEqual(
    fails('cancelled', 'nothing of it was added'),
  )
  expect((await prepare('off')).documents).toBe(before.documents)
})

test('calls at the wrong endpoint, and corpora of others, are refused', async () => {
  const query = await prepare('x')
  await expect(load('host-0', shardOf(query))).rejects.toEqual(fails('unsupported'))
  const onControl = callServerStream(client('host-0'), 'export', { shard: shardOf(query) })
  await expect(onControl.next()).rejects.toEqual(fails('unsupported', 'KV endpoint'))
  const foreign = { ...corpus, tenantSalt: Buffer.from('another tenant') }
  for (const device of ['fpga-0', 'host-0']) {
    const shard = { ...shardOf(query), corpus: foreign }
    await expect(retrieve(device, shard, query)).rejects.toEqual(fails('not_found'))
  }
  await expect(callUnary(client('host-0'), 'prepare', { corpus: foreign, query: 'x' })).rejects.toEqual(
    fails('not_found'),
  )
})
