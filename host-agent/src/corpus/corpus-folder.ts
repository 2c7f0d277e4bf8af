/**
 * The folder of one corpus on disk: its documents as JSONL, and a record of how much of that file counts.
 *
 * Invariants:
 * F1 The record is replaced as a whole after the documents it speaks of are on the disk. So what a
 *    crash leaves behind is the corpus before the upload or after it.
 * F2 Bytes of the documents beyond the record are nobody's, and the next upload writes over them.
 */
import { type FileHandle, open, rename, rm, rmdir, stat, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { CorruptDataError, InternalError, KvasirError, OverloadedError } from '@kvasir/runtime/errors'

const RECORD = 'corpus.json'
const NEXT_RECORD = 'corpus.json.next'
const DOCUMENTS = 'documents.jsonl'
const FORMAT = 1

export interface CorpusRecord {
  readonly name: string
  /** Hexadecimal. */
  readonly tenantSalt: string
  readonly createdMs: number
  /** 0 while it is empty. */
  readonly version: number
  readonly documents: number
  /** Of the documents' file, those that count. */
  readonly fileBytes: number
  /** Of titles and texts. */
  readonly textBytes: number
  readonly postingsBytes: number
  readonly terms: number
  /** Whose words its terms are (analyzer.ts). */
  readonly analyzer: string
}

export class CorpusFolder {
  constructor(readonly path: string) {}

  get documentsFile(): string {
    return join(this.path, DOCUMENTS)
  }

  /** Undefined where the folder holds no corpus, as after a crash in the middle of making or deleting one. */
  async readRecord(): Promise<CorpusRecord | undefined> {
    const file = join(this.path, RECORD)
    const handle = await open(file, 'r').catch((error: unknown) => {
      if (codeOf(error) === 'ENOENT') return undefined
      throw storageError(error)
    })
    if (handle === undefined) return undefined
    try {
      return parseRecord(await handle.readFile('utf8'), file)
    } finally {
      await handle.close()
    }
  }

  /** In place of the one before. */
  async writeRecord(record: CorpusRecord): Promise<void> {
    try {
      const next = join(this.path, NEXT_RECORD)
      const handle = await open(next, 'w')
      try {
        await handle.writeFile(`${JSON.stringify({ format: FORMAT, ...record })}\n`)
        await handle.sync()
      } finally {
        await handle.close()
      }
      await rename(next, join(this.path, RECORD))
    } catch (error) {
      throw storageError(error)
    }
    // The new record counts from here on, whatever comes; a failure means that a loss of power may undo it.
    await syncFolder(this.path).catch(() => {})
  }

  /** For writing at any position; made where it is missing. */
  async openDocuments(): Promise<FileHandle> {
    try {
      return await open(this.documentsFile, (await exists(this.documentsFile)) ? 'r+' : 'w+')
    } catch (error) {
      throw storageError(error)
    }
  }

  /** Gives back what an upload that did not count has left behind. */
  async trim(fileBytes: number): Promise<void> {
    try {
      await truncate(this.documentsFile, fileBytes)
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw storageError(error)
    }
  }

  /** The record first, so that what is left after a crash is no corpus. Only files of ours go. */
  async remove(): Promise<void> {
    try {
      for (const name of [RECORD, NEXT_RECORD, DOCUMENTS]) await rm(join(this.path, name), { force: true })
      await rmdir(this.path)
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw storageError(error)
    }
  }
}

/** What a fault of the disk means to whoever wanted to store something. */
export function storageError(error: unknown): KvasirError {
  if (error instanceof KvasirError) return error
  const code = codeOf(error)
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new OverloadedError('The disk that holds the corpora is full; free some of it and upload again.', {
      param: 'corpusDir',
      cause: error,
    })
  }
  return KvasirError.from(error)
}

export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

function parseRecord(text: string, file: string): CorpusRecord {
  const fields = new Map<string, unknown>(Object.entries(parseObject(text, file)))
  const take = <T>(name: string, is: (value: unknown) => value is T): T => {
    const value = fields.get(name)
    if (!is(value)) throw unreadable(file, `${name} is missing or wrong`)
    return value
  }
  const count = (name: string) => take(name, isCount)
  const words = (name: string) => take(name, isText)
  if (count('format') !== FORMAT) throw unreadable(file, 'another release of Kvasir wrote it')
  return {
    name: words('name'),
    tenantSalt: words('tenantSalt'),
    createdMs: count('createdMs'),
    version: count('version'),
    documents: count('documents'),
    fileBytes: count('fileBytes'),
    textBytes: count('textBytes'),
    postingsBytes: count('postingsBytes'),
    terms: count('terms'),
    analyzer: words('analyzer'),
  }
}

function parseObject(text: string, file: string): object {
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed === 'object' && parsed !== null) return parsed
  } catch (error) {
    throw unreadable(file, 'it is not JSON', error)
  }
  throw unreadable(file, 'it is no object')
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function isText(value: unknown): value is string {
  return typeof value === 'string'
}

function unreadable(file: string, why: string, cause?: unknown): CorruptDataError {
  return new CorruptDataError(
    `The record of a corpus, ${file}, cannot be read (${why}); delete the corpus and upload it again.`,
    { cause },
  )
}

async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  )
}

/** A renamed file is on the disk once its folder is. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Writes all of `bytes`. */
export async function writeAt(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  let written = 0
  while (written < bytes.length) {
    const { bytesWritten } = await file
      .write(bytes, written, bytes.length - written, position + written)
      .catch((error: unknown) => {
        throw storageError(error)
      })
    if (bytesWritten === 0) throw new InternalError('The disk took no bytes and gave no reason.')
    written += bytesWritten
  }
}
