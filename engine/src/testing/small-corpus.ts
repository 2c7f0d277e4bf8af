/** A corpus of a few texts, indexed at once: what tests search and export. */
import { countWords } from '../bm25/analyzer.js'
import { type Bm25Query, inverseDocumentFrequency } from '../bm25/bm25.js'
import { PostingsBuilder } from '../bm25/postings-builder.js'
import type { PostingsShard } from '../bm25/shard-format.js'
import { mergeShards } from '../bm25/shard-merge.js'
import { type ShardResult, ShardStore } from '../bm25/shard-store.js'

export class SmallCorpus {
  private readonly numbers = new Map<string, number>()
  private readonly containing: number[] = []
  private words = 0

  private constructor(
    private readonly documents: number,
    readonly shards: readonly PostingsShard[],
  ) {}

  /** @param cuts document numbers before which a new shard begins */
  static of(texts: readonly string[], cuts: readonly number[] = []): SmallCorpus {
    const shards: PostingsShard[] = []
    const corpus = new SmallCorpus(texts.length, shards)
    let builder = new PostingsBuilder(0)
    texts.forEach((text, number) => {
      if (number > 0 && cuts.includes(number)) {
        shards.push(builder.finish())
        builder = new PostingsBuilder(number)
      }
      const { counts, length } = countWords(text)
      builder.add(
        Array.from(counts, ([word, count]) => [corpus.termOf(word), count] as const),
        length,
      )
      corpus.words += length
    })
    shards.push(builder.finish())
    return corpus
  }

  /** The shard of some of its documents. */
  shard(firstDocument = 0, documentCount = this.documents): PostingsShard {
    return finished(mergeShards(this.shards, firstDocument, documentCount))
  }

  query(text: string, k: number): Bm25Query {
    const known = [...countWords(text).counts].flatMap(([word, count]) => {
      const term = this.numbers.get(word)
      if (term === undefined) return []
      return [{ term, weight: count * inverseDocumentFrequency(this.documents, this.containing[term] ?? 0) }]
    })
    known.sort((a, b) => a.term - b.term)
    return {
      terms: Uint32Array.from(known, ({ term }) => term),
      weights: Float64Array.from(known, ({ weight }) => weight),
      meanLength: this.words / this.documents,
      k,
    }
  }

  search(text: string, k: number, firstDocument = 0, documentCount = this.documents): ShardResult {
    const store = new ShardStore()
    store.load('shard', this.shard(firstDocument, documentCount).bytes)
    return store.search({ key: 'shard', ...this.query(text, k) })
  }

  private termOf(word: string): number {
    const term = this.numbers.get(word) ?? this.numbers.size
    this.numbers.set(word, term)
    this.containing[term] = (this.containing[term] ?? 0) + 1
    return term
  }
}

/** What a generator returns, its pauses ignored. */
export function finished<T>(steps: Generator<void, T>): T {
  for (;;) {
    const step = steps.next()
    if (step.done === true) return step.value
  }
}
