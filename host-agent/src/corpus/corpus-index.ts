/**
 * What a corpus is searched by, in memory: its words, their statistics, and its postings as shards.
 *
 * Invariants:
 * X1 Documents are numbered in the order in which they came, terms in the order in which they first
 *    occur: the same documents give the same index.
 * X2 Readers see whole uploads: an upload's documents are in none of the figures until `publish`.
 * X3 Documents are only added, so what an older version names is still there.
 */
import { countWords } from '@kvasir/engine/bm25/analyzer'
import {
  BM25_LIMITS,
  type Bm25Query,
  inverseDocumentFrequency,
  scoreDocuments,
} from '@kvasir/engine/bm25/bm25'
import type { PostingsShard } from '@kvasir/engine/bm25/shard-format'
import { mergeShards } from '@kvasir/engine/bm25/shard-merge'
import { TopDocuments } from '@kvasir/engine/bm25/top-documents'
import type { PreparedQuery } from '@kvasir/proto/kvasir/memory/v1/corpus'
import type { Turns } from './turns.js'

export interface DocumentRange {
  readonly firstDocument: number
  readonly documentCount: number
}

export interface Retrieved {
  readonly documents: Uint32Array
  readonly scores: Float64Array
  /** Time that the work took, without its rests, microseconds. */
  readonly relevancyUs: number
  readonly retrievalUs: number
}

/** What an upload adds. */
export interface IndexAddition {
  /** New words in the order of their numbers, which follow those that are there. */
  readonly words: ReadonlyMap<string, number>
  readonly ids: ReadonlySet<string>
  /** By term: documents of the upload that contain it. */
  readonly containing: ReadonlyMap<number, number>
  readonly documents: number
  readonly wordCount: number
  /** Of all documents, the upload's included. */
  readonly shards: readonly PostingsShard[]
}

export class CorpusIndex {
  private readonly numbers = new Map<string, number>()
  private readonly ids = new Set<string>()
  /** By term: documents that contain it. Its length is the number of terms that readers see. */
  private readonly containing: number[] = []
  private documentCount = 0
  private wordCount = 0
  private parts: readonly PostingsShard[] = []

  get documents(): number {
    return this.documentCount
  }

  get terms(): number {
    return this.containing.length
  }

  get shards(): readonly PostingsShard[] {
    return this.parts
  }

  get postingsBytes(): number {
    return bytesOf(this.parts)
  }

  hasId(id: string): boolean {
    return this.ids.has(id)
  }

  termOf(word: string): number | undefined {
    const term = this.numbers.get(word)
    return term === undefined || term >= this.containing.length ? undefined : term
  }

  /** Takes an upload's documents in: what is only looked up with rests, what readers see at once. */
  async publish(addition: IndexAddition, turns: Turns): Promise<void> {
    for (const [word, term] of addition.words) {
      this.numbers.set(word, term)
      await turns.rest()
    }
    for (const id of addition.ids) {
      this.ids.add(id)
      await turns.rest()
    }
    for (let term = this.containing.length; term < this.numbers.size; term += 1) this.containing.push(0)
    for (const [term, documents] of addition.containing) {
      this.containing[term] = (this.containing[term] ?? 0) + documents
    }
    this.documentCount += addition.documents
    this.wordCount += addition.wordCount
    this.parts = addition.shards
  }

  /** The prepare stage. Of more terms than a search takes the weightiest stay. */
  prepare(query: string): Omit<PreparedQuery, 'version' | 'prepareUs'> {
    const { counts, length } = countWords(query)
    const known = [...counts].flatMap(([word, count]) => {
      const term = this.termOf(word)
      if (term === undefined) return []
      const idf = inverseDocumentFrequency(this.documentCount, this.containing[term] ?? 0)
      return [{ term, weight: count * idf }]
    })
    if (known.length > BM25_LIMITS.terms) {
      known.sort((a, b) => b.weight - a.weight || a.term - b.term)
      known.length = BM25_LIMITS.terms
    }
    known.sort((a, b) => a.term - b.term)
    return {
      terms: known,
      meanLength: this.documentCount === 0 ? 0 : this.wordCount / this.documentCount,
      words: length,
      documents: BigInt(this.documentCount),
      postingsBytes: BigInt(known.reduce((sum, { term }) => sum + this.postingsBytesOf(term), 0)),
    }
  }

  /** Relevancy and retrieval: what a device does with a shard of the range, to the last bit. */
  async retrieve(
    query: Bm25Query,
    range: DocumentRange,
    turns: Turns,
    signal: AbortSignal,
  ): Promise<Retrieved> {
    const best = new TopDocuments(Math.min(query.k, range.documentCount))
    let relevancyMs = 0
    let retrievalMs = 0
    for (const shard of this.parts) {
      const begin = Math.max(0, range.firstDocument - shard.firstDocument)
      const end = Math.min(
        shard.documentCount,
        range.firstDocument + range.documentCount - shard.firstDocument,
      )
      if (begin >= end) continue
      const scoring = timed(scoreDocuments(shard, query, begin, end), (ms) => {
        relevancyMs += ms
      })
      const scores = await turns.run(scoring, signal)
      const startMs = performance.now()
      best.offerAll(shard.firstDocument + begin, scores)
      retrievalMs += performance.now() - startMs
      await turns.rest()
    }
    const startMs = performance.now()
    const { documents, scores } = best.ranked()
    retrievalMs += performance.now() - startMs
    return {
      documents,
      scores,
      relevancyUs: Math.round(relevancyMs * 1_000),
      retrievalUs: Math.round(retrievalMs * 1_000),
    }
  }

  /** The range as one shard; not a copy where it is one already. */
  async shardOf(range: DocumentRange, turns: Turns, signal: AbortSignal): Promise<PostingsShard> {
    const { firstDocument, documentCount } = range
    const same = this.parts.find(
      (shard) => shard.firstDocument === firstDocument && shard.documentCount === documentCount,
    )
    return same ?? turns.run(mergeShards(this.parts, firstDocument, documentCount), signal)
  }

  private postingsBytesOf(term: number): number {
    return this.parts.reduce((sum, shard) => {
      const place = shard.placeOf(term)
      return place < 0 ? sum : sum + shard.postingsBytesAt(place)
    }, 0)
  }
}

export function bytesOf(shards: readonly PostingsShard[]): number {
  return shards.reduce((sum, { bytes }) => sum + bytes.length, 0)
}

/** The same steps; tells how long each took. */
function* timed<T>(steps: Generator<void, T>, add: (ms: number) => void): Generator<void, T> {
  for (;;) {
    const startMs = performance.now()
    const step = steps.next()
    add(performance.now() - startMs)
    if (step.done === true) return step.value
    yield
  }
}
