/**
 * What the gateway asks of retrieval: make, fill, list, delete and search corpora, each of one tenant.
 *
 * Nothing of it is kept here beyond what can be learned again: documents are with the devices that keep
 * corpora, postings with them and with the devices that search. Searches and uploads are bounded.
 */
import type { CorpusRef, IngestRequest } from '@kvasir/proto/kvasir/memory/v1/corpus'
import type { Clock } from '@kvasir/runtime/clock'
import { AlreadyExistsError, InvalidInputError, KvasirError, OverloadedError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { callClientStream, callUnary } from '@kvasir/runtime/rpc-client'
import {
  CorpusDirectory,
  corpusKey,
  type KnownCorpus,
  ownerMissing,
  type ReachableCorpus,
} from './corpus-directory.js'
import type { CorpusReport, IngestReport } from './corpus-reports.js'
import { RetrievalDevices, type RetrievalNode } from './retrieval-devices.js'
import { Searcher, type SearchOptions, type SearchResult } from './search.js'
import { ShardHoldings } from './shard-holdings.js'
import { ShardKeeper } from './shard-keeper.js'

const SEARCHES_MAX = 256
const UPLOADS_MAX = 16
const CHANGE_TIMEOUT_MS = 10_000
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/

export interface Corpora {
  /** Throws InvalidInputError for a name that cannot be, AlreadyExistsError for one that is taken. */
  create(corpus: CorpusRef): Promise<CorpusReport>
  list(tenantSalt: Uint8Array): Promise<readonly CorpusReport[]>
  /** Throws NotFoundError; UnavailableError where its owner does not answer. So do all below. */
  get(corpus: CorpusRef): Promise<CorpusReport>
  /** `jsonl` is read as fast as the owner takes it. What it throws ends the upload, and is thrown. */
  ingest(corpus: CorpusRef, jsonl: AsyncIterable<Buffer>, signal: AbortSignal): Promise<IngestReport>
  delete(corpus: CorpusRef): Promise<void>
  search(corpus: CorpusRef, query: string, options: SearchOptions): Promise<SearchResult>
  close(): void
}

export interface CorporaOptions {
  readonly nodes: () => readonly RetrievalNode[]
  readonly clock: Clock
  readonly log: Logger
}

export function createCorpora(options: CorporaOptions): Corpora {
  return new CorporaShell(options)
}

class CorporaShell implements Corpora {
  readonly #devices: RetrievalDevices
  readonly #directory: CorpusDirectory
  readonly #keeper: ShardKeeper
  readonly #searcher: Searcher
  #searches = 0
  #uploads = 0

  constructor({ nodes, clock, log }: CorporaOptions) {
    const devices = new RetrievalDevices(nodes)
    const directory = new CorpusDirectory(devices)
    const holdings = new ShardHoldings(devices, log)
    const keeper = new ShardKeeper({ devices, directory, holdings, clock, log })
    this.#devices = devices
    this.#directory = directory
    this.#keeper = keeper
    this.#searcher = new Searcher({ devices, directory, holdings, keeper, log })
  }

  async create(corpus: CorpusRef): Promise<CorpusReport> {
    if (!NAME.test(corpus.name)) {
      throw new InvalidInputError(
        'The name of a corpus has 1 to 64 letters of a to z, digits, "-", "_" or ".", the first a letter or digit.',
        {
          param: 'name',
        },
      )
    }
    await this.#directory.refresh()
    if (this.#directory.known(corpusKey(corpus))) throw nameTaken(corpus)
    const owner = this.#directory.storeForNew()
    const client = this.#devices.client(owner)
    try {
      const info = await callUnary(client, 'create', corpus, { timeoutMs: CHANGE_TIMEOUT_MS })
      // Postings of an earlier corpus of this name may be left on a device that was out of reach at its end.
      void this.#keeper.removed(corpus)
      return this.#report(this.#directory.update(owner.ref.deviceId, info))
    } catch (thrown) {
      throw KvasirError.from(thrown).code === 'already_exists' ? nameTaken(corpus) : thrown
    }
  }

  async list(tenantSalt: Uint8Array): Promise<readonly CorpusReport[]> {
    await this.#directory.refresh()
    return this.#directory.ofTenant(tenantSalt).map((known) => this.#report(known))
  }

  async get(corpus: CorpusRef): Promise<CorpusReport> {
    await this.#directory.refresh()
    return this.#report(await this.#directory.find(corpus))
  }

  async ingest(name: CorpusRef, jsonl: AsyncIterable<Buffer>, signal: AbortSignal): Promise<IngestReport> {
    if (this.#uploads >= UPLOADS_MAX) {
      throw new OverloadedError('Too many uploads are under way. Try again when one has ended.')
    }
    this.#uploads += 1
    try {
      const corpus = await this.#directory.find(name)
      const client = this.#devices.client(corpus.owner)
      const answer = await this.#asked(corpus, () =>
        callClientStream(client, 'ingest', messagesOf(corpus, jsonl), { signal }),
      )
      const info = answer.corpus ?? corpus.info
      const known = this.#directory.update(corpus.ownerId, info)
      void this.#keeper.prefetch({ ...known, owner: corpus.owner })
      return {
        added: Number(answer.added),
        rejected: Number(answer.rejected),
        problems: answer.problems.map(({ line, message }) => ({ line: Number(line), message })),
        corpus: this.#report(known),
      }
    } finally {
      this.#uploads -= 1
    }
  }

  async delete(name: CorpusRef): Promise<void> {
    const corpus = await this.#directory.find(name)
    const client = this.#devices.client(corpus.owner)
    await this.#asked(corpus, () =>
      callUnary(client, 'delete', { corpus: corpus.ref }, { timeoutMs: CHANGE_TIMEOUT_MS }),
    )
    this.#directory.forget(corpus.key)
    await this.#keeper.removed(corpus.ref)
  }

  async search(name: CorpusRef, query: string, options: SearchOptions): Promise<SearchResult> {
    if (this.#searches >= SEARCHES_MAX) {
      throw new OverloadedError('Too many searches are under way. Try again in a moment.')
    }
    this.#searches += 1
    try {
      return await this.#searcher.search(await this.#directory.find(name), query, options)
    } finally {
      this.#searches -= 1
    }
  }

  close(): void {
    this.#devices.close()
  }

  async #asked<T>(corpus: ReachableCorpus, call: () => Promise<T>): Promise<T> {
    try {
      return await call()
    } catch (thrown) {
      const { code } = KvasirError.from(thrown)
      // Deleted by somebody else since it was listed.
      if (code === 'not_found') this.#directory.forget(corpus.key)
      throw code === 'unreachable' || code === 'deadline' ? ownerMissing(corpus, thrown) : thrown
    }
  }

  #report({ key, ref, info, ownerId }: KnownCorpus): CorpusReport {
    const owner = this.#devices.node(ownerId)
    const shards = this.#keeper.shardsOf(key, info.version)
    return {
      name: ref.name,
      version: Number(info.version),
      documents: Number(info.documents),
      terms: Number(info.terms),
      textBytes: Number(info.textBytes),
      postingsBytes: Number(info.postingsBytes),
      createdAt: new Date(Number(info.createdMs)).toISOString(),
      owner: ownerId,
      available: owner !== undefined && owner.state !== 'lost',
      shards: shards.map(({ deviceId, firstDocument, documentCount }) => ({
        device: deviceId ?? ownerId,
        firstDocument,
        documents: documentCount,
      })),
    }
  }
}

async function* messagesOf(
  { ref }: KnownCorpus,
  jsonl: AsyncIterable<Buffer>,
): AsyncGenerator<IngestRequest> {
  yield { corpus: ref, jsonl: Buffer.alloc(0) }
  for await (const bytes of jsonl) yield { corpus: undefined, jsonl: bytes }
  yield { jsonl: Buffer.alloc(0), complete: true }
}

function nameTaken({ name }: CorpusRef): AlreadyExistsError {
  return new AlreadyExistsError(
    `There is a corpus "${name}" already: choose another name, or delete that one first.`,
    { param: 'name' },
  )
}
