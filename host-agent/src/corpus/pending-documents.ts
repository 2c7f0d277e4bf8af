/**
 * The documents of one upload on their way into an index: numbered, counted, and made into shards as
 * they come. Dropping it leaves the index as it was.
 */
import { countWords, searchedText } from '@kvasir/engine/bm25/analyzer'
import { PostingsBuilder } from '@kvasir/engine/bm25/postings-builder'
import type { PostingsShard } from '@kvasir/engine/bm25/shard-format'
import { mergeShards } from '@kvasir/engine/bm25/shard-merge'
import type { Document } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { bytesOf, type CorpusIndex, type IndexAddition } from './corpus-index.js'
import type { Turns } from './turns.js'

/** A shard is made of this many postings at the latest, which takes a few milliseconds. */
const BUILD_POSTINGS = 1 << 17
/** Shards grow by joining up to this size. */
const SHARD_BYTES_MAX = 256 << 20

export class PendingDocuments {
  private readonly words = new Map<string, number>()
  private readonly ids = new Set<string>()
  private readonly containing = new Map<number, number>()
  private readonly shards: PostingsShard[] = []
  private builder: PostingsBuilder
  private wordCount = 0
  private count = 0

  constructor(private readonly index: CorpusIndex) {
    this.builder = new PostingsBuilder(index.documents)
  }

  get documents(): number {
    return this.count
  }

  get newTerms(): number {
    return this.words.size
  }

  hasId(id: string): boolean {
    return this.ids.has(id)
  }

  /** @returns bytes that postings grew by, now and then: a shard's at a time */
  add({ id, title, text }: Document): number {
    const { counts, length } = countWords(searchedText(title, text))
    const termCounts: (readonly [number, number])[] = []
    for (const [word, count] of counts) {
      const term = this.termOf(word)
      termCounts.push([term, count])
      this.containing.set(term, (this.containing.get(term) ?? 0) + 1)
    }
    this.builder.add(termCounts, length)
    this.ids.add(id)
    this.wordCount += length
    this.count += 1
    return this.builder.postingCount >= BUILD_POSTINGS ? this.build() : 0
  }

  /** Everything that was added, its shards joined with those of the index. */
  async finish(turns: Turns, signal?: AbortSignal): Promise<IndexAddition> {
    if (this.builder.documentCount > 0) this.build()
    const { words, ids, containing, wordCount } = this
    const shards = await joined([...this.index.shards, ...this.shards], turns, signal)
    return { words, ids, containing, documents: this.count, wordCount, shards }
  }

  private build(): number {
    const shard = this.builder.finish()
    this.shards.push(shard)
    this.builder = new PostingsBuilder(this.index.documents + this.count)
    return bytesOf([shard])
  }

  private termOf(word: string): number {
    const known = this.index.termOf(word) ?? this.words.get(word)
    if (known !== undefined) return known
    const term = this.index.terms + this.words.size
    // A copy: the word itself is a view that would keep its whole document in memory.
    this.words.set(Buffer.from(word).toString(), term)
    return term
  }
}

/**
 * Few shards from many: one that is at most twice as large as the next is joined with it, so that shards get
 * smaller towards the end and a posting is copied a logarithmic number of times in its life.
 */
async function joined(
  shards: readonly PostingsShard[],
  turns: Turns,
  signal: AbortSignal | undefined,
): Promise<PostingsShard[]> {
  const stack: PostingsShard[] = []
  for (const shard of shards) {
    let last = shard
    for (;;) {
      const before = stack.at(-1)
      if (before === undefined || !worthJoining(before, last)) break
      stack.pop()
      const documents = before.documentCount + last.documentCount
      last = await turns.run(mergeShards([before, last], before.firstDocument, documents), signal)
    }
    stack.push(last)
  }
  return stack
}

function worthJoining(before: PostingsShard, last: PostingsShard): boolean {
  return (
    before.bytes.length <= 2 * last.bytes.length && before.bytes.length + last.bytes.length <= SHARD_BYTES_MAX
  )
}
