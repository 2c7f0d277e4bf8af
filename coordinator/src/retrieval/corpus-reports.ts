/**
 * What the coordinator says of corpora and searches, in the shapes that the HTTP API gives.
 */
import type { StageReport } from '../generation.js'

export interface CorpusReport {
  readonly name: string
  /** Grows with every change of its documents; 0 before the first. */
  readonly version: number
  readonly documents: number
  /** Distinct words. */
  readonly terms: number
  readonly textBytes: number
  readonly postingsBytes: number
  /** ISO 8601. */
  readonly createdAt: string
  /** The device that keeps its documents, and whether it answers. */
  readonly owner: string
  readonly available: boolean
  /** Who holds which of its postings, as planned by the last search; empty before the first. */
  readonly shards: readonly ShardReport[]
}

export interface ShardReport {
  /** The owner where no other device has room. */
  readonly device: string
  readonly firstDocument: number
  readonly documents: number
}

export interface IngestReport {
  readonly added: number
  readonly rejected: number
  /** The first of the lines that were not taken. */
  readonly problems: readonly { readonly line: number; readonly message: string }[]
  readonly corpus: CorpusReport
}

export interface FoundDocument {
  readonly id: string
  readonly title: string
  readonly text: string
  readonly score: number
}

export interface SearchReport {
  readonly corpus: string
  readonly k: number
  /** Best first. */
  readonly documents: readonly FoundDocument[]
  readonly tookMs: number
  readonly stages: readonly StageReport[]
}
