/**
 * The documents of a corpus in their file: where each one is, and reading them again.
 *
 * Invariant: what is read was written by an upload. A line that is not is a fault of the disk, which
 * makes the corpus damaged, never a document more or less.
 */
import { createReadStream } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { Document } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { type CorruptDataError, InvalidInputError } from '@kvasir/runtime/errors'
import { codeOf, storageError } from './corpus-folder.js'
import { DOCUMENT_BYTES_MAX, LineProblem, parseDocumentLine } from './document-line.js'
import { LineSplitter } from './line-splitter.js'

/** A kept line may be this much longer than the line it came from: the fields' names. */
const KEPT_LINE_EXTRA_BYTES = 64
/** Documents that are read at once. */
const DOCUMENTS_MAX = 1_000
const DOCUMENTS_BYTES_MAX = 32 << 20

export class KeptDocuments {
  /** Where each document begins. */
  private readonly offsets: number[] = []

  /** @param damaged what the disk's fault means to whoever uses the corpus */
  constructor(
    private readonly path: string,
    private readonly damaged: (why: string) => CorruptDataError,
  ) {}

  /** An upload wrote documents at these offsets. */
  add(offsets: readonly number[]): void {
    for (const offset of offsets) this.offsets.push(offset)
  }

  /** All documents in the first `fileBytes` bytes, in order; learns where they are. */
  async *all(fileBytes: number): AsyncGenerator<Document> {
    if (fileBytes === 0) return
    const splitter = new LineSplitter(DOCUMENT_BYTES_MAX + KEPT_LINE_EXTRA_BYTES)
    let at = 0
    try {
      for await (const chunk of createReadStream(this.path, { end: fileBytes - 1 })) {
        for (const { number, bytes } of splitter.push(chunk)) {
          this.offsets.push(at)
          at += (bytes?.length ?? 0) + 1
          yield this.parse(bytes, number)
        }
      }
    } catch (error) {
      throw this.readingFault(error)
    }
    if (at !== fileBytes) throw this.damaged('its documents are cut off')
  }

  /** Documents by number, in the order asked for. `fileBytes`: the end of the last document. */
  async read(numbers: readonly number[], fileBytes: number): Promise<Document[]> {
    const places = numbers.map((number) => {
      const begin = this.offsets[number] ?? 0
      return { number, begin, bytes: (this.offsets[number + 1] ?? fileBytes) - begin }
    })
    const bytes = places.reduce((sum, place) => sum + place.bytes, 0)
    if (numbers.length > DOCUMENTS_MAX || bytes > DOCUMENTS_BYTES_MAX) {
      throw new InvalidInputError(
        `At most ${DOCUMENTS_MAX} documents and ${DOCUMENTS_BYTES_MAX} bytes are given at once; ask for fewer.`,
        { param: 'documents' },
      )
    }
    if (places.length === 0) return []
    let file: FileHandle | undefined
    try {
      file = await open(this.path, 'r')
      const documents: Document[] = []
      for (const place of places) {
        const line = Buffer.alloc(place.bytes)
        const { bytesRead } = await file.read(line, 0, place.bytes, place.begin)
        if (bytesRead !== place.bytes) throw this.damaged('its documents are cut off')
        documents.push(this.parse(line, place.number + 1))
      }
      return documents
    } catch (error) {
      throw this.readingFault(error)
    } finally {
      await file?.close()
    }
  }

  private parse(bytes: Uint8Array | undefined, number: number): Document {
    try {
      const document = parseDocumentLine(bytes, false)
      if (document !== undefined) return document
    } catch (error) {
      if (!(error instanceof LineProblem)) throw error
      throw this.damaged(`line ${number} of its documents: ${error.message}`)
    }
    throw this.damaged(`line ${number} of its documents is empty`)
  }

  private readingFault(error: unknown): Error {
    return codeOf(error) === 'ENOENT' ? this.damaged('its documents are gone') : storageError(error)
  }
}
