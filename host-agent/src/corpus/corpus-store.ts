/**
 * All corpora of one host agent, under one folder: `FOLDER/TENANT/NAME/`.
 *
 * Invariants:
 * S1 A corpus is found by its tenant's salt and its name together: a tenant never reaches another's.
 * S2 All corpora together never take more than the budget for anything new.
 * S3 A folder that holds no record, such as the rest of a deletion that was cut off, is removed; nothing
 *    else in the folder is touched.
 */
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { ANALYZER } from '@kvasir/engine/bm25/analyzer'
import type { CorpusInfo, CorpusRef } from '@kvasir/proto/kvasir/memory/v1/corpus'
import type { Clock } from '@kvasir/runtime/clock'
import { withSignal } from '@kvasir/runtime/deferred'
import {
  AlreadyExistsError,
  InvalidInputError,
  KvasirError,
  messageOf,
  NotFoundError,
  OverloadedError,
  UnavailableError,
} from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { ByteBudget } from './byte-budget.js'
import { Corpus } from './corpus.js'
import { CorpusFolder, type CorpusRecord, codeOf, storageError } from './corpus-folder.js'

const CORPORA_MAX = 1_000
const SALT_BYTES_MAX = 64
/** Folder of those without a tenant; no salt in hexadecimal looks like it. */
const NO_TENANT = 'shared'
/** Begins with a letter or digit, so that no name is a folder's own or hidden. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

export interface CorpusStoreOptions {
  /** Made with the first corpus. */
  readonly folder: string
  /** Documents on disk and postings in memory, all corpora together. */
  readonly bytesMax: number
  readonly clock: Clock
  readonly log: Logger
}

/** A corpus without documents. */
const EMPTY = {
  version: 0,
  documents: 0,
  fileBytes: 0,
  textBytes: 0,
  postingsBytes: 0,
  terms: 0,
  analyzer: ANALYZER,
}

export class CorpusStore {
  private readonly corpora = new Map<string, Corpus>()
  /** Names whose corpus is being deleted. */
  private readonly leaving = new Map<string, Promise<void>>()
  private readonly budget: ByteBudget
  private readonly scanned: Promise<void>
  private lastVersion = 0

  /** Begins to read what is there; every call waits for as much of it as it needs. */
  constructor(private readonly options: CorpusStoreOptions) {
    this.budget = new ByteBudget(options.bytesMax)
    this.scanned = this.scan()
    this.scanned.then(
      () => this.openAll(),
      (error: unknown) => options.log.error(`corpora cannot be read: ${messageOf(error)}`),
    )
  }

  get usedBytes(): number {
    return this.budget.used
  }

  async create(ref: CorpusRef, signal: AbortSignal): Promise<CorpusInfo> {
    await withSignal(this.scanned, signal)
    const key = keyOf(ref)
    await withSignal(this.leaving.get(key) ?? Promise.resolve(), signal)
    const { name } = ref
    if (this.corpora.has(key)) {
      throw new AlreadyExistsError(
        `There is a corpus ${name} already; choose another name or delete it first.`,
        {
          param: 'name',
          ids: { corpus: name },
        },
      )
    }
    if (this.corpora.size >= CORPORA_MAX) {
      throw new OverloadedError(`This machine keeps at most ${CORPORA_MAX} corpora; delete one first.`)
    }
    const { folder: root, clock } = this.options
    const record: CorpusRecord = {
      name,
      tenantSalt: Buffer.from(ref.tenantSalt).toString('hex'),
      createdMs: clock.wallMs(),
      ...EMPTY,
    }
    const folder = new CorpusFolder(join(root, key))
    const corpus = this.corpusOf(folder, record)
    // From here on the name is taken, though the folder is not there yet.
    this.corpora.set(key, corpus)
    try {
      await mkdir(folder.path, { recursive: true }).catch((error: unknown) => {
        throw unwritable(root, error)
      })
      await folder.writeRecord(record)
      await corpus.open()
      return corpus.info
    } catch (error) {
      this.corpora.delete(key)
      const why = KvasirError.from(error)
      await corpus.close(why)
      throw why
    }
  }

  /** Throws NotFoundError where this tenant has none of this name. */
  async corpus(ref: CorpusRef, signal: AbortSignal): Promise<Corpus> {
    await withSignal(this.scanned, signal)
    const found = this.corpora.get(keyOf(ref))
    if (found !== undefined) return found
    throw unknown(ref)
  }

  /** By name. */
  async list(signal: AbortSignal): Promise<CorpusInfo[]> {
    await withSignal(this.scanned, signal)
    const infos = [...this.corpora.values()].map(({ info }) => info)
    return infos.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  }

  async delete(ref: CorpusRef, signal: AbortSignal): Promise<void> {
    const corpus = await this.corpus(ref, signal)
    const key = keyOf(ref)
    this.corpora.delete(key)
    const gone = corpus.delete()
    this.leaving.set(key, gone)
    try {
      await gone
    } finally {
      this.leaving.delete(key)
    }
  }

  /** Ends what runs; what was taken in stays. */
  async close(): Promise<void> {
    const reason = new UnavailableError('The agent that holds the corpora is stopping; try again soon.')
    await this.scanned.catch(() => {})
    await Promise.allSettled([...this.corpora.values()].map((corpus) => corpus.close(reason)))
  }

  private async scan(): Promise<void> {
    const { folder: root } = this.options
    for (const tenant of await foldersIn(root)) {
      for (const name of await foldersIn(join(root, tenant))) {
        if (NAME.test(name) && /^(shared|([0-9a-f]{2})+)$/.test(tenant)) await this.find(tenant, name)
      }
    }
  }

  private async find(tenant: string, name: string): Promise<void> {
    const key = `${tenant}/${name}`
    const folder = new CorpusFolder(join(this.options.folder, key))
    try {
      const record = await folder.readRecord()
      if (record === undefined) {
        await folder.remove()
        return
      }
      this.lastVersion = Math.max(this.lastVersion, record.version)
      this.corpora.set(key, this.corpusOf(folder, record))
    } catch (error) {
      const tenantSalt = tenant === NO_TENANT ? '' : tenant
      const record = { name, tenantSalt, createdMs: 0, ...EMPTY }
      this.corpora.set(key, this.corpusOf(folder, record, KvasirError.from(error)))
    }
  }

  /** One after the other, so that reading takes one core's time and no more; the small ones wait for no large one. */
  private async openAll(): Promise<void> {
    const { log } = this.options
    const textBytes = ({ info }: Corpus) => Number(info.textBytes)
    for (const corpus of [...this.corpora.values()].sort((a, b) => textBytes(a) - textBytes(b))) {
      const { name, documents } = corpus.info
      try {
        await corpus.open()
        log.info({ corpus: name, documents: Number(documents) }, 'corpus is open')
      } catch (error) {
        log.error({ corpus: name }, `corpus cannot be used: ${messageOf(error)}`)
      }
    }
  }

  private corpusOf(folder: CorpusFolder, record: CorpusRecord, fault?: KvasirError): Corpus {
    return new Corpus({
      folder,
      record,
      budget: this.budget,
      newVersion: () => this.newVersion(),
      ...(fault === undefined ? {} : { fault }),
    })
  }

  /** The time, so that not even a store that lost its folder gives a version twice; never less than the last one. */
  private newVersion(): number {
    this.lastVersion = Math.max(this.lastVersion + 1, this.options.clock.wallMs())
    return this.lastVersion
  }
}

/** Throws InvalidInputError for a name that no corpus can have. */
function keyOf({ name, tenantSalt }: CorpusRef): string {
  if (!NAME.test(name)) {
    throw new InvalidInputError(
      'The name of a corpus has 1 to 64 letters, digits, "-", "_" or ".", the first a letter or digit; choose another.',
      { param: 'name' },
    )
  }
  if (tenantSalt.length > SALT_BYTES_MAX) {
    throw new InvalidInputError(`tenant_salt has at most ${SALT_BYTES_MAX} bytes.`, { param: 'tenant_salt' })
  }
  const tenant = tenantSalt.length === 0 ? NO_TENANT : Buffer.from(tenantSalt).toString('hex')
  return `${tenant}/${name}`
}

function unknown({ name }: CorpusRef): NotFoundError {
  return new NotFoundError(`There is no corpus ${name}; create it first, or list those that there are.`, {
    param: 'name',
    ids: { corpus: name },
  })
}

async function foldersIn(path: string): Promise<string[]> {
  try {
    const entries = await readdir(path, { withFileTypes: true })
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return []
    throw unreadable(path, error)
  }
}

function unreadable(path: string, error: unknown): KvasirError {
  return new UnavailableError(
    `The folder of corpora ${path} cannot be read (${messageOf(error)}); repair it, or set corpusDir to another.`,
    { param: 'corpusDir', cause: error },
  )
}

function unwritable(path: string, error: unknown): KvasirError {
  const known = storageError(error)
  if (known instanceof OverloadedError) return known
  return new UnavailableError(
    `The folder of corpora ${path} cannot be written (${messageOf(error)}); repair it, or set corpusDir to another.`,
    { param: 'corpusDir', cause: error },
  )
}
