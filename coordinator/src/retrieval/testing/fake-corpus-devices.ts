/**
 * Devices for tests of retrieval: real gRPC, documents in memory, and a score that is easy to compute:
 * the count of each term times its weight of 1.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import {
  type CorpusInfo,
  type CorpusRef,
  type CorpusServiceServer,
  CorpusServiceService,
  type RetrieveRequest,
  type RetrieveResponse,
  type Shard,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import { AlreadyExistsError, InternalError, NotFoundError, OverloadedError } from '@kvasir/runtime/errors'
import {
  type CallContext,
  clientStream,
  type RpcServer,
  serverStream,
  startRpcServer,
  unary,
} from '@kvasir/runtime/rpc-server'
import { corpusKey } from '../corpus-directory.js'
import type { RetrievalNode } from '../retrieval-devices.js'

/** What a document weighs in a shard. */
export const FAKE_DOCUMENT_BYTES = 100
/** Documents are their words; ids are their numbers. */
export type FakeDocument = readonly string[]

interface FakeCorpus {
  readonly ref: CorpusRef
  documents: readonly FakeDocument[]
  version: bigint
}

type Hook = (call: CallContext) => Promise<void> | void

abstract class FakeDevice {
  state: RetrievalNode['state'] = 'ready'
  /** Called before each answer; what it throws is the answer. */
  onRetrieve: Hook = () => {}
  /** Shards asked for, as first+count. */
  readonly retrieved: string[] = []
  protected server: RpcServer | undefined
  #incarnation = 1
  #address = ''

  constructor(
    readonly deviceId: string,
    private readonly capabilities: Pick<RetrievalNode, 'isStore' | 'isSearcher' | 'shardBytesMax'>,
  ) {}

  async start(): Promise<this> {
    const absent = async (): Promise<never> => {
      throw new InternalError(`${this.deviceId} has no such method.`)
    }
    const implementation: CorpusServiceServer = {
      create: unary(absent),
      ingest: clientStream(absent),
      list: unary(absent),
      delete: unary(absent),
      prepare: unary(absent),
      documents: unary(absent),
      export: serverStream(absent),
      load: unary(absent),
      unload: unary(absent),
      ...this.methods(),
      retrieve: unary(async (request, call) => {
        const { firstDocument = 0, documentCount = 0 } = request.shard ?? {}
        this.retrieved.push(`${firstDocument}+${documentCount}`)
        await this.onRetrieve(call)
        return this.retrieve(request)
      }),
    }
    this.server = await startRpcServer({
      host: '127.0.0.1',
      port: 0,
      services: [{ definition: CorpusServiceService, implementation }],
    })
    this.#address = this.server.address
    return this
  }

  get node(): RetrievalNode {
    return {
      ref: { deviceId: this.deviceId, incarnation: String(this.#incarnation) },
      facts: {
        deviceId: this.deviceId,
        tiers: [{ name: 'dram', capacityBytes: 1e9, bytesPerSecond: 10e9 }],
        compute: [{ precision: 'f32', opsPerSecond: 50e9 }],
        link: { bytesPerSecond: 1e9, latencyMs: 0.1 },
      },
      state: this.state,
      ...this.capabilities,
      controlEndpoint: this.#address,
      kvEndpoint: this.#address,
    }
  }

  /** As kill -9, noticed by nobody yet. */
  async kill(): Promise<void> {
    await this.server?.close()
  }

  /** A new life. */
  async restart(): Promise<void> {
    await this.kill()
    this.#incarnation += 1
    this.restarted()
    await this.start()
  }

  protected restarted(): void {}
  protected abstract methods(): Partial<CorpusServiceServer>
  protected abstract retrieve(request: RetrieveRequest): RetrieveResponse
}

export class FakeOwner extends FakeDevice {
  readonly corpora = new Map<string, FakeCorpus>()
  onPrepare: Hook = () => {}
  onDocuments: Hook = () => {}
  /** Whether it answers for versions before the newest. */
  keepsVersions = true
  /** Distinct words, as it tells of every corpus. */
  terms = 0n
  readonly #versions = new Map<bigint, readonly FakeDocument[]>()
  #version = 0n

  constructor(deviceId = 'host-0') {
    super(deviceId, { isStore: true, isSearcher: false, shardBytesMax: 0 })
  }

  /** Makes the corpus, or adds to it. */
  add(ref: CorpusRef, documents: readonly FakeDocument[]): void {
    const corpus = this.corpora.get(corpusKey(ref)) ?? { ref, documents: [], version: 0n }
    this.#version += 1n
    corpus.version = documents.length === 0 ? 0n : this.#version
    corpus.documents = [...corpus.documents, ...documents]
    this.corpora.set(corpusKey(ref), corpus)
    this.#versions.set(corpus.version, corpus.documents)
  }

  /** The documents of a version of a corpus; throws NotFoundError as the real one does. */
  documentsOf(ref: CorpusRef | undefined, version: bigint): readonly FakeDocument[] {
    const corpus = this.#corpus(ref)
    if (corpus.version === version) return corpus.documents
    const older = this.keepsVersions ? this.#versions.get(version) : undefined
    if (older) return older
    throw new NotFoundError(`There is no version ${version}.`)
  }

  protected override methods(): Partial<CorpusServiceServer> {
    return {
      create: unary(async (ref) => {
        if (this.corpora.has(corpusKey(ref))) throw new AlreadyExistsError('It is there.')
        this.add(ref, [])
        return this.#info(ref)
      }),
      ingest: clientStream(async (incoming) => {
        let ref: CorpusRef | undefined
        let text = ''
        for await (const { corpus, jsonl } of incoming) {
          ref ??= corpus
          text += Buffer.from(jsonl).toString('utf8')
        }
        const lines = text.split('\n').filter((line) => line !== '')
        const good = lines.filter((line) => line !== 'broken')
        const { ref: known } = this.#corpus(ref)
        this.add(
          known,
          good.map((line) => line.split(' ')),
        )
        return {
          corpus: this.#info(known),
          added: BigInt(good.length),
          rejected: BigInt(lines.length - good.length),
          problems: lines.flatMap((line, at) =>
            line === 'broken' ? { line: BigInt(at + 1), message: 'It is broken.' } : [],
          ),
        }
      }),
      list: unary(async () => ({ corpora: [...this.corpora.values()].map(({ ref }) => this.#info(ref)) })),
      delete: unary(async ({ corpus }) => {
        this.corpora.delete(corpusKey(this.#corpus(corpus).ref))
        return {}
      }),
      prepare: unary(async ({ corpus, query }, call) => {
        await this.onPrepare(call)
        const { documents, version } = this.#corpus(corpus)
        const vocabulary = vocabularyOf(documents)
        const words = query.split(' ').filter((word) => word !== '')
        return {
          version,
          terms: vocabulary.flatMap((word, term) => (words.includes(word) ? { term, weight: 1 } : [])),
          meanLength: 1,
          words: words.length,
          documents: BigInt(documents.length),
          postingsBytes: BigInt(documents.length * 4),
          prepareUs: 10n,
        }
      }),
      documents: unary(async ({ corpus, version, documents: numbers }, call) => {
        await this.onDocuments(call)
        const documents = this.documentsOf(corpus, version)
        return {
          documents: numbers.map((number) => ({
            id: `d${number}`,
            title: `title ${number}`,
            text: (documents[number] ?? []).join(' '),
          })),
        }
      }),
    }
  }

  protected override retrieve(request: RetrieveRequest): RetrieveResponse {
    const { corpus, version = 0n } = request.shard ?? {}
    return score(this.documentsOf(corpus, version), request)
  }

  #corpus(ref: CorpusRef | undefined): FakeCorpus {
    const corpus = ref && this.corpora.get(corpusKey(ref))
    if (!corpus) throw new NotFoundError('There is no such corpus.')
    return corpus
  }

  #info(ref: CorpusRef): CorpusInfo {
    const { documents, version } = this.#corpus(ref)
    const bytes = BigInt(documents.length * FAKE_DOCUMENT_BYTES)
    return {
      ...ref,
      version,
      documents: BigInt(documents.length),
      textBytes: bytes,
      postingsBytes: bytes,
      terms: this.terms,
      createdMs: 1_000n,
    }
  }
}

export class FakeSearcher extends FakeDevice {
  /** Shards it holds, with their documents. */
  readonly held = new Map<string, { readonly shard: Shard; readonly documents: readonly FakeDocument[] }>()
  loads = 0
  onLoad: Hook = () => {}

  constructor(
    deviceId: string,
    private readonly owner: FakeOwner,
    private readonly bytesMax: number,
  ) {
    super(deviceId, { isStore: false, isSearcher: true, shardBytesMax: bytesMax })
  }

  get heldRanges(): string[] {
    return [...this.held.values()].map(({ shard }) => `${shard.firstDocument}+${shard.documentCount}`).sort()
  }

  protected override restarted(): void {
    this.held.clear()
  }

  protected override methods(): Partial<CorpusServiceServer> {
    return {
      load: unary(async ({ shard }, call) => {
        this.loads += 1
        await this.onLoad(call)
        if (!shard) throw new InternalError('No shard was named.')
        const documents = this.owner.documentsOf(shard.corpus, shard.version)
        const held = [...this.held.values()].reduce((sum, { shard: other }) => sum + other.documentCount, 0)
        const isHeld = this.held.has(keyOf(shard))
        if (!isHeld && (held + shard.documentCount) * FAKE_DOCUMENT_BYTES > this.bytesMax) {
          throw new OverloadedError(`${this.deviceId} has no room.`)
        }
        this.held.set(keyOf(shard), { shard, documents })
        return { bytes: BigInt(shard.documentCount * FAKE_DOCUMENT_BYTES) }
      }),
      unload: unary(async ({ corpus, beforeVersion }) => {
        for (const [key, { shard }] of this.held) {
          const isOf = shard.corpus && corpus && corpusKey(shard.corpus) === corpusKey(corpus)
          if (isOf && (beforeVersion === 0n || shard.version < beforeVersion)) this.held.delete(key)
        }
        return { bytes: 0n }
      }),
    }
  }

  protected override retrieve(request: RetrieveRequest): RetrieveResponse {
    const held = request.shard && this.held.get(keyOf(request.shard))
    if (!held) throw new NotFoundError(`${this.deviceId} does not hold this shard.`)
    return score(held.documents, request)
  }
}

/** What any device answers: counts, best first, the smaller number first where they are equal. */
export function bestOf(
  documents: readonly FakeDocument[],
  words: readonly string[],
  k: number,
): { readonly id: string; readonly score: number }[] {
  return documents
    .map((document, number) => ({
      number,
      score: document.filter((word) => words.includes(word)).length,
    }))
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score || a.number - b.number)
    .slice(0, k)
    .map(({ number, score }) => ({ id: `d${number}`, score }))
}

/** Never answers, until the caller gives up. */
export async function stall({ signal }: CallContext): Promise<void> {
  while (!signal.aborted) await nextTurn()
}

function score(documents: readonly FakeDocument[], { shard, terms, k }: RetrieveRequest): RetrieveResponse {
  const { firstDocument = 0, documentCount = 0 } = shard ?? {}
  const vocabulary = vocabularyOf(documents)
  const words = terms.map(({ term }) => vocabulary[term] ?? '')
  const part = documents.slice(firstDocument, firstDocument + documentCount)
  return {
    documents: bestOf(part, words, k).map(({ id, score }) => ({
      document: firstDocument + Number(id.slice(1)),
      score,
    })),
    relevancyUs: 20n,
    retrievalUs: 5n,
  }
}

function vocabularyOf(documents: readonly FakeDocument[]): string[] {
  return [...new Set(documents.flat())].sort()
}

function keyOf({ corpus, version, firstDocument, documentCount }: Shard): string {
  return `${corpus ? corpusKey(corpus) : ''} ${version} ${firstDocument}+${documentCount}`
}
