/**
 * Shards of postings that a device holds, and BM25 with top-k over one of them: what a driver's kernels
 * bm25-load, bm25-unload and bm25-search do (kernels.ts).
 */
import { NotFoundError } from '@kvasir/runtime/errors'
import { type Bm25Query, checkQuery, scoreDocuments } from './bm25.js'
import { PostingsShard } from './shard-format.js'
import { TopDocuments } from './top-documents.js'

export interface ShardSearch extends Bm25Query {
  readonly key: string
}

export interface ShardResult {
  /** Best first; of equal scores the smaller number first. */
  readonly documents: Uint32Array
  readonly scores: Float64Array
  readonly relevancyUs: number
  readonly retrievalUs: number
}

export class ShardStore {
  private readonly shards = new Map<string, PostingsShard>()
  private used = 0

  /** Bytes of all shards held. */
  get usedBytes(): number {
    return this.used
  }

  /**
   * Takes `bytes` over, in place of what was there under the key; gives the bytes it takes. Throws
   * CorruptDataError for damaged bytes, and then keeps what was there.
   */
  load(key: string, bytes: Uint8Array): number {
    const shard = PostingsShard.parse(bytes)
    this.unload(key)
    this.shards.set(key, shard)
    this.used += shard.bytes.length
    return shard.bytes.length
  }

  /** Nothing happens where there is none. */
  unload(key: string): void {
    const shard = this.shards.get(key)
    if (shard === undefined) return
    this.shards.delete(key)
    this.used -= shard.bytes.length
  }

  /** Throws NotFoundError for a key that is not held, InvalidInputError for a query that no search takes. */
  search(search: ShardSearch): ShardResult {
    const shard = this.shards.get(search.key)
    if (shard === undefined)
      throw new NotFoundError(`The shard ${search.key} is not held here; load it first.`)
    checkQuery(search)
    const startMs = performance.now()
    const scoring = scoreDocuments(shard, search)
    let step = scoring.next()
    while (step.done !== true) step = scoring.next()
    const scoredMs = performance.now()
    const best = new TopDocuments(Math.min(search.k, shard.documentCount))
    best.offerAll(shard.firstDocument, step.value)
    const { documents, scores } = best.ranked()
    const endMs = performance.now()
    return {
      documents,
      scores,
      relevancyUs: Math.round((scoredMs - startMs) * 1_000),
      retrievalUs: Math.round((endMs - scoredMs) * 1_000),
    }
  }
}
