/**
 * One corpus: documents on disk, their index in memory.
 *
 * Invariants:
 * K1 An upload counts as a whole or not at all: one that is cut off, or does not fit, leaves the corpus as it was.
 *    One upload runs at a time.
 * K2 A version names a number of documents, and documents are only added: what a version names stays readable while
 *    the corpus lives, and no version is ever used again, even after the corpus was deleted and made anew.
 * K3 What is in memory is derived: it is read from the documents when the process starts.
 */
import type { FileHandle } from 'node:fs/promises'
import { ANALYZER } from '@kvasir/engine/bm25/analyzer'
import type { Bm25Query } from '@kvasir/engine/bm25/bm25'
import type { PostingsShard } from '@kvasir/engine/bm25/shard-format'
import type {
  CorpusInfo,
  Document,
  IngestProblem,
  PreparedQuery,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import { type Deferred, deferred, withSignal } from '@kvasir/runtime/deferred'
import { CorruptDataError, type KvasirError, NotFoundError } from '@kvasir/runtime/errors'
import type { ByteBudget } from './byte-budget.js'
import { type CorpusFolder, type CorpusRecord, storageError } from './corpus-folder.js'
import { CorpusIndex, type DocumentRange, type Retrieved } from './corpus-index.js'
import { KeptDocuments } from './kept-documents.js'
import { withinOrUnavailable } from './patience.js'
import { PendingDocuments } from './pending-documents.js'
import { Turns } from './turns.js'
import { Upload } from './upload.js'
import { WriteLock } from './write-lock.js'

/** How long an upload waits for another one of the same corpus to end. */
const UPLOAD_WAIT_MS = 30_000
/** Less than the deadline of a call, so that its caller is told why. */
const OPENING_WAIT_MS = 5_000
/** How long an upload may be silent. */
const SILENCE_MS = 30_000
/** Earlier versions that are remembered; only a query that runs at the time of an upload names one. */
const VERSIONS_MAX = 64
export interface CorpusOptions {
  readonly folder: CorpusFolder
  readonly record: CorpusRecord
  readonly budget: ByteBudget
  /** A version that no corpus has had. */
  readonly newVersion: () => number
  /** Why it cannot be used, where that is known. */
  readonly fault?: KvasirError
}

export interface IngestOutcome {
  readonly corpus: CorpusInfo
  readonly added: bigint
  readonly rejected: bigint
  readonly problems: IngestProblem[]
}

export class Corpus {
  private readonly index = new CorpusIndex()
  private readonly kept: KeptDocuments
  private readonly lock = new WriteLock()
  private readonly ending = new AbortController()
  private readonly opened: Deferred<void> = deferred()
  /** Of the versions of this life, how many documents each names. */
  private readonly versions = new Map<number, number>()
  private record: CorpusRecord
  private begun = false

  constructor(private readonly options: CorpusOptions) {
    this.record = options.record
    this.kept = new KeptDocuments(options.folder.documentsFile, (why) => this.damaged(why))
    options.budget.adjust(bytesOf(this.record))
  }

  get info(): CorpusInfo {
    const { record } = this
    return {
      name: record.name,
      tenantSalt: Buffer.from(record.tenantSalt, 'hex'),
      version: BigInt(record.version),
      documents: BigInt(record.documents),
      textBytes: BigInt(record.textBytes),
      postingsBytes: BigInt(record.postingsBytes),
      terms: BigInt(record.terms),
      createdMs: BigInt(record.createdMs),
    }
  }

  /** Reads what is on disk; every other call waits for it. Called once; rejects with why the corpus cannot be used. */
  async open(): Promise<void> {
    this.begun = true
    try {
      this.ending.signal.throwIfAborted()
      if (this.options.fault !== undefined) throw this.options.fault
      await this.readDocuments()
      this.opened.resolve()
    } catch (error) {
      const why = storageError(error)
      this.opened.reject(why)
      throw why
    }
  }

  /** Adds the documents of a stream of JSONL. */
  async ingest(chunks: AsyncIterable<Uint8Array>, caller: AbortSignal): Promise<IngestOutcome> {
    const signal = AbortSignal.any([caller, this.ending.signal])
    await this.ready(signal)
    const { name } = this.record
    const release = await this.lock.take(
      UPLOAD_WAIT_MS,
      `Another upload to the corpus ${name} is running; try again when it has ended.`,
      signal,
    )
    let file: FileHandle | undefined
    try {
      signal.throwIfAborted()
      file = await this.options.folder.openDocuments()
      return await this.ingestInto(file, chunks, signal)
    } catch (error) {
      throw storageError(error)
    } finally {
      await file?.close()
      release()
    }
  }

  /** The prepare stage. */
  async prepare(query: string, signal: AbortSignal): Promise<Omit<PreparedQuery, 'prepareUs'>> {
    await this.ready(signal)
    return { version: BigInt(this.record.version), ...this.index.prepare(query) }
  }

  /** Relevancy and retrieval over a range of documents. */
  async retrieve(
    version: bigint,
    range: DocumentRange,
    query: Bm25Query,
    signal: AbortSignal,
  ): Promise<Retrieved> {
    await this.named(version, range, signal)
    return this.index.retrieve(query, range, new Turns(), signal)
  }

  /** The postings of a range of documents. */
  async shard(version: bigint, range: DocumentRange, signal: AbortSignal): Promise<PostingsShard> {
    await this.named(version, range, signal)
    return this.index.shardOf(range, new Turns(), signal)
  }

  /** Documents by number, in the order asked for. */
  async documents(version: bigint, numbers: readonly number[], signal: AbortSignal): Promise<Document[]> {
    const largest = numbers.reduce((most, number) => Math.max(most, number), -1)
    await this.named(version, { firstDocument: 0, documentCount: largest + 1 }, signal)
    return this.kept.read(numbers, this.record.fileBytes)
  }

  /** Ends what runs, and deletes it from the disk. */
  async delete(): Promise<void> {
    this.end(new NotFoundError(`The corpus ${this.record.name} was deleted.`))
    const release = await this.settled()
    try {
      this.options.budget.adjust(-bytesOf(this.record))
      await this.options.folder.remove()
    } finally {
      release()
    }
  }

  /** Ends what runs; the corpus stays on the disk. */
  async close(reason: Error): Promise<void> {
    this.end(reason)
    const release = await this.settled()
    release()
  }

  /** A large corpus takes some time to read after a start. */
  private ready(signal: AbortSignal): Promise<void> {
    return withinOrUnavailable(
      withSignal(this.opened.promise, signal),
      OPENING_WAIT_MS,
      `The corpus ${this.record.name} is being read from the disk after a start; try again in a moment.`,
    )
  }

  private end(reason: Error): void {
    if (!this.ending.signal.aborted) this.ending.abort(reason)
    // Nobody waits for its turn to be opened.
    if (!this.begun) this.opened.reject(reason)
  }

  /** Nothing reads or writes for this corpus any more that could change it. */
  private async settled(): Promise<() => void> {
    await this.opened.promise.catch(() => {})
    return this.lock.take(
      UPLOAD_WAIT_MS,
      `The upload to the corpus ${this.record.name} does not end; try again in a moment.`,
    )
  }

  private async ingestInto(
    file: FileHandle,
    chunks: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<IngestOutcome> {
    const { record, index } = this
    const { budget, folder, newVersion } = this.options
    const turns = new Turns()
    let counts = false
    const upload = new Upload({ index, budget, file, fileBytes: record.fileBytes, turns, signal })
    try {
      const messages = chunks[Symbol.asyncIterator]()
      for (;;) {
        const next = await withinOrUnavailable(
          withSignal(messages.next(), signal),
          SILENCE_MS,
          `Nothing more of the upload came for ${SILENCE_MS} ms; upload the documents again.`,
        )
        if (next.done === true) break
        await upload.push(next.value)
      }
      const addition = await upload.finish()
      signal.throwIfAborted()
      if (upload.added > 0) {
        const changed: CorpusRecord = {
          ...record,
          version: newVersion(),
          documents: record.documents + upload.added,
          fileBytes: upload.fileBytes,
          textBytes: record.textBytes + upload.textBytes,
          postingsBytes: addition.shards.reduce((sum, { bytes }) => sum + bytes.length, 0),
          terms: record.terms + upload.newTerms,
        }
        await folder.writeRecord(changed)
        counts = true
        budget.adjust(bytesOf(changed) - bytesOf(record) - upload.handOver())
        this.kept.add(upload.offsets)
        await index.publish(addition, turns)
        this.become(changed)
      }
    } catch (error) {
      // Bytes that stay are written over by the next upload; they only take room on the disk until then.
      if (!counts) await folder.trim(record.fileBytes).catch(() => {})
      throw error
    } finally {
      upload.abandon()
    }
    const { added, rejected, problems } = upload
    return { corpus: this.info, added: BigInt(added), rejected: BigInt(rejected), problems }
  }

  private become(record: CorpusRecord): void {
    this.record = record
    this.versions.set(record.version, record.documents)
    const [oldest] = this.versions.keys()
    if (this.versions.size > VERSIONS_MAX && oldest !== undefined) this.versions.delete(oldest)
  }

  private async readDocuments(): Promise<void> {
    const { record } = this
    const turns = new Turns()
    const pending = new PendingDocuments(this.index)
    for await (const document of this.kept.all(record.fileBytes)) {
      this.ending.signal.throwIfAborted()
      pending.add(document)
      await turns.rest()
    }
    if (pending.documents !== record.documents) {
      throw this.damaged(`it has ${pending.documents} of ${record.documents} documents`)
    }
    await this.options.folder.trim(record.fileBytes)
    const addition = await pending.finish(turns, this.ending.signal)
    await this.index.publish(addition, turns)
    const { postingsBytes, terms } = this.index
    const read = { ...record, postingsBytes, terms, analyzer: ANALYZER }
    // Other words have other numbers, which must not meet shards of the numbers before.
    const renamed = record.analyzer === ANALYZER ? read : { ...read, version: this.options.newVersion() }
    const changed = record.documents === 0 ? { ...read, version: 0 } : renamed
    if (changed.version !== record.version) await this.options.folder.writeRecord(changed)
    this.options.budget.adjust(bytesOf(changed) - bytesOf(record))
    this.become(changed)
  }

  /** Throws NotFoundError where the version is unknown or names fewer documents. */
  private async named(version: bigint, range: DocumentRange, signal: AbortSignal): Promise<void> {
    await this.ready(signal)
    const documents = this.versions.get(Number(version))
    const { name } = this.record
    if (documents === undefined) {
      throw new NotFoundError(
        `The corpus ${name} has no version ${version} any more; prepare the query again, its version is ${this.record.version}.`,
        { param: 'version' },
      )
    }
    if (range.firstDocument + range.documentCount <= documents) return
    throw new NotFoundError(
      `Version ${version} of the corpus ${name} has ${documents} documents; there is none with a larger number.`,
      { param: 'document_count' },
    )
  }

  private damaged(why: string): CorruptDataError {
    const { name } = this.record
    return new CorruptDataError(
      `The corpus ${name} is damaged on its disk (${why}); delete it and upload it again.`,
      { ids: { corpus: name } },
    )
  }
}

/** What a corpus counts for in the budget. */
function bytesOf({ fileBytes, postingsBytes }: CorpusRecord): number {
  return fileBytes + postingsBytes
}
