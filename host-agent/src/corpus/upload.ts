/**
 * One upload of documents: JSONL in any cuts becomes lines, documents, bytes on the disk and postings.
 *
 * Invariants:
 * U1 What is wrong with a line keeps that line out, and no other.
 * U2 Nothing of an upload counts before its corpus has taken it over; `abandon` gives back what it took.
 * U3 Memory: a line, a buffer of WRITE_BYTES, and the postings, which the budget bounds.
 */
import type { FileHandle } from 'node:fs/promises'
import type { IngestProblem } from '@kvasir/proto/kvasir/memory/v1/corpus'
import type { ByteBudget } from './byte-budget.js'
import { writeAt } from './corpus-folder.js'
import type { CorpusIndex, IndexAddition } from './corpus-index.js'
import { DOCUMENT_BYTES_MAX, documentLine, LineProblem, parseDocumentLine } from './document-line.js'
import { type Line, LineSplitter } from './line-splitter.js'
import { PendingDocuments } from './pending-documents.js'
import type { Turns } from './turns.js'

/** Problems that are told one by one. */
const PROBLEMS_MAX = 100
const WRITE_BYTES = 1 << 20
const ID_SHOWN_CHARACTERS = 60

export interface UploadOptions {
  readonly index: CorpusIndex
  readonly budget: ByteBudget
  readonly file: FileHandle
  /** Where its first document is written. */
  readonly fileBytes: number
  readonly turns: Turns
  readonly signal: AbortSignal
}

export class Upload {
  /** Positions of its documents in the file. */
  readonly offsets: number[] = []
  readonly problems: IngestProblem[] = []
  rejected = 0
  /** Of titles and texts. */
  textBytes = 0
  private readonly pending: PendingDocuments
  private readonly splitter = new LineSplitter(DOCUMENT_BYTES_MAX)
  private readonly buffer = Buffer.alloc(WRITE_BYTES + 2 * DOCUMENT_BYTES_MAX)
  private buffered = 0
  private writtenTo: number
  private taken = 0

  constructor(private readonly options: UploadOptions) {
    this.pending = new PendingDocuments(options.index)
    this.writtenTo = options.fileBytes
  }

  get added(): number {
    return this.pending.documents
  }

  get newTerms(): number {
    return this.pending.newTerms
  }

  /** End of its last document in the file. */
  get fileBytes(): number {
    return this.writtenTo + this.buffered
  }

  /** Throws OverloadedError where the budget or the disk is full. */
  async push(bytes: Uint8Array): Promise<void> {
    for (const line of this.splitter.push(bytes)) await this.take(line)
  }

  /** After the last bytes: everything is on the disk, and what the index is to take is returned. */
  async finish(): Promise<IndexAddition> {
    const { file, turns, signal } = this.options
    for (const line of this.splitter.finish()) await this.take(line)
    await this.write()
    if (this.added > 0) await file.datasync()
    return this.pending.finish(turns, signal)
  }

  /** Bytes it took from the budget that the corpus has to account for from now on. */
  handOver(): number {
    const { taken } = this
    this.taken = 0
    return taken
  }

  abandon(): void {
    this.options.budget.adjust(-this.handOver())
  }

  private async take(line: Line): Promise<void> {
    this.options.signal.throwIfAborted()
    try {
      this.index(line)
    } catch (error) {
      if (!(error instanceof LineProblem)) throw error
      this.rejected += 1
      if (this.problems.length < PROBLEMS_MAX) {
        this.problems.push({ line: BigInt(line.number), message: error.message })
      }
    }
    if (this.buffered >= WRITE_BYTES) await this.write()
    await this.options.turns.rest()
  }

  private index({ number, bytes }: Line): void {
    const document = parseDocumentLine(bytes, number === 1)
    if (document === undefined) return
    const { id, title, text } = document
    if (this.pending.hasId(id)) {
      throw new LineProblem(
        `The id ${shown(id)} is in this upload already; the first document with it counts.`,
      )
    }
    if (this.options.index.hasId(id)) {
      throw new LineProblem(`The id ${shown(id)} is in the corpus already; its document is kept as it is.`)
    }
    const line = documentLine(document)
    const lineBytes = Buffer.byteLength(line)
    this.spend(lineBytes)
    this.offsets.push(this.fileBytes)
    this.buffer.write(line, this.buffered)
    this.buffered += lineBytes
    this.textBytes += Buffer.byteLength(title) + Buffer.byteLength(text)
    this.spend(this.pending.add(document))
  }

  private spend(bytes: number): void {
    this.options.budget.take(bytes)
    this.taken += bytes
  }

  private async write(): Promise<void> {
    if (this.buffered === 0) return
    await writeAt(this.options.file, this.buffer.subarray(0, this.buffered), this.writtenTo)
    this.writtenTo += this.buffered
    this.buffered = 0
  }
}

function shown(id: string): string {
  const characters = [...id]
  const short = characters.slice(0, ID_SHOWN_CHARACTERS).join('')
  return JSON.stringify(characters.length > ID_SHOWN_CHARACTERS ? `${short}…` : id)
}
