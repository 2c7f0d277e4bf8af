/**
 * CorpusService as the owner of corpora serves it: everything on the control endpoint, but Export, which moves
 * bulk data, on the KV endpoint. Load and Unload are for devices that hold shards of another's.
 */
import { checksumOf } from '@kvasir/agent/checksum'
import type { Device } from '@kvasir/agent/device'
import { corpusRefusals } from '@kvasir/agent/shard-refusals'
import { checkedQuery, checkedShard } from '@kvasir/agent/shard-requests'
import { shardSearch } from '@kvasir/agent/shard-search'
import type {
  CorpusRef,
  CorpusServiceServer,
  IngestRequest,
  ShardChunk,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import { withDeadline } from '@kvasir/runtime/deferred'
import { CancelledError, InvalidInputError, messageOf, OverloadedError } from '@kvasir/runtime/errors'
import { type CallContext, clientStream, type Send, serverStream, unary } from '@kvasir/runtime/rpc-server'
import type { CorpusStore } from './corpus-store.js'

const CHUNK_BYTES = 1 << 20
const QUERY_CHARACTERS_MAX = 1 << 20
/** Each holds memory for its scores, or for the shard that it sends. */
const SEARCHES_MAX = 16
const EXPORTS_MAX = 4
const RETRY_MS = 200
/** The caller of Ingest says at once which corpus it means. */
const OPEN_MS = 5_000

export function corpusControlService(device: Device, store: CorpusStore): CorpusServiceServer {
  const { clock, log } = device
  const searches = new AtATime(SEARCHES_MAX, 'searches')
  return {
    ...corpusRefusals(device.deviceId),
    create: unary(({ name, tenantSalt }, { signal }) => store.create({ name, tenantSalt }, signal)),
    ingest: clientStream(async (incoming, { signal }) => {
      const messages = incoming[Symbol.asyncIterator]()
      const first = await withDeadline(messages.next(), OPEN_MS, 'waiting for the name of the corpus')
      const ref = required(first.done === true ? undefined : first.value.corpus, 'IngestRequest.corpus')
      const corpus = await store.corpus(ref, signal)
      const chunks = jsonlOf(first.done === true ? undefined : first.value, messages)
      try {
        const outcome = await corpus.ingest(chunks, signal)
        const { added, rejected } = outcome
        log.info({ corpus: ref.name, added: Number(added), rejected: Number(rejected) }, 'documents ingested')
        return outcome
      } catch (error) {
        log.warn({ corpus: ref.name }, `upload failed: ${messageOf(error)}`)
        throw error
      }
    }),
    list: unary(async (_request, { signal }) => ({ corpora: await store.list(signal) })),
    delete: unary(async (request, { signal }) => {
      await store.delete(required(request.corpus, 'DeleteCorpusRequest.corpus'), signal)
      return {}
    }),
    prepare: unary(async ({ corpus, query }, { signal }) => {
      const startMs = clock.nowMs()
      if (query.length > QUERY_CHARACTERS_MAX) {
        throw new InvalidInputError(`A query has at most ${QUERY_CHARACTERS_MAX} characters; shorten it.`, {
          param: 'query',
        })
      }
      const found = await store.corpus(required(corpus, 'PrepareQueryRequest.corpus'), signal)
      const prepared = await found.prepare(query, signal)
      return { ...prepared, prepareUs: BigInt(Math.round((clock.nowMs() - startMs) * 1_000)) }
    }),
    documents: unary(async ({ corpus, version, documents }, { signal }) => {
      const found = await store.corpus(required(corpus, 'DocumentsRequest.corpus'), signal)
      return { documents: await found.documents(version, documents, signal) }
    }),
    retrieve: unary((request, { signal }) =>
      searches.run(async () => {
        const checked = checkedShard(request.shard, 'RetrieveRequest')
        const { corpus, version, range } = checked
        const query = checkedQuery(request)
        const owned = await store.corpus(corpus, signal)
        return shardSearch(checked, () => owned.retrieve(version, range, query, signal))
      }),
    ),
  }
}

export function corpusExportService(device: Device, store: CorpusStore): CorpusServiceServer {
  const exports = new AtATime(EXPORTS_MAX, 'shards being sent')
  return {
    ...corpusRefusals(device.deviceId),
    export: serverStream((request, call, send) =>
      exports.run(async () => {
        const { corpus, version, range } = checkedShard(request.shard, 'ExportShardRequest')
        const found = await store.corpus(corpus, call.signal)
        const shard = await found.shard(version, range, call.signal)
        await sendShard(device, shard.bytes, call, send)
      }),
    ),
  }
}

async function sendShard(
  { pacer }: Device,
  bytes: Uint8Array,
  { signal }: CallContext,
  send: Send<ShardChunk>,
): Promise<void> {
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    const part = bytes.subarray(at, at + CHUNK_BYTES)
    await pacer.transmit(part.length, signal)
    const data = Buffer.from(part.buffer, part.byteOffset, part.byteLength)
    await send({ data, checksum: checksumOf(data) })
  }
}

/** Throws CancelledError for an upload that ends before it says so: a call that is cancelled may look like one that ended. */
async function* jsonlOf(
  first: IngestRequest | undefined,
  rest: AsyncIterator<IngestRequest>,
): AsyncGenerator<Uint8Array> {
  let message = first
  while (message !== undefined) {
    yield message.jsonl
    if (message.complete === true) return
    const next = await rest.next()
    message = next.done === true ? undefined : next.value
  }
  throw new CancelledError('The upload was cut off, and nothing of it was added; upload the documents again.')
}

function required(corpus: CorpusRef | undefined, field: string): CorpusRef {
  if (corpus !== undefined) return corpus
  throw new InvalidInputError(`${field} is missing; set it.`, { param: 'corpus' })
}

/** Refuses what is beyond a number of calls at a time. */
class AtATime {
  private running = 0

  constructor(
    private readonly most: number,
    private readonly what: string,
  ) {}

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.running >= this.most) {
      throw new OverloadedError(
        `This machine has ${this.most} ${this.what} at a time; try again in a moment.`,
        {
          retryAfterMs: RETRY_MS,
        },
      )
    }
    this.running += 1
    try {
      return await work()
    } finally {
      this.running -= 1
    }
  }
}
