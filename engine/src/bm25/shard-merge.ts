/**
 * Any range of documents as one shard, from the shards of a corpus: joining small shards, and cutting a
 * corpus for several devices, are the same work.
 *
 * Invariant: the result does not depend on how the documents were spread over the given shards.
 */
import { InternalError } from '@kvasir/runtime/errors'
import type { PostingsShard } from './shard-format.js'
import { ShardWriter } from './shard-writer.js'

/** Postings between two pauses. */
const PAUSE_POSTINGS = 1 << 16

/**
 * @param shards consecutive, together covering the range
 * @returns a generator that pauses now and then, so that its caller can let others run, and returns the shard
 */
export function* mergeShards(
  shards: readonly PostingsShard[],
  firstDocument: number,
  documentCount: number,
): Generator<void, PostingsShard> {
  const parts = shards
    .filter((shard) => overlaps(shard, firstDocument, documentCount))
    .map((shard) => new Part(shard, firstDocument))
  const lengths = new Uint32Array(documentCount)
  let covered = 0
  for (const { shard, shift } of parts) {
    const begin = Math.max(0, -shift)
    const end = Math.min(shard.documentCount, documentCount - shift)
    lengths.set(shard.lengths.subarray(begin, end), begin + shift)
    covered += end - begin
  }
  if (covered !== documentCount) {
    throw new InternalError(`Shards cover ${covered} of ${documentCount} documents from ${firstDocument} on.`)
  }

  const writer = new ShardWriter(firstDocument, lengths)
  let walked = 0
  for (;;) {
    let term = Number.POSITIVE_INFINITY
    for (const part of parts) term = Math.min(term, part.term)
    if (term === Number.POSITIVE_INFINITY) return writer.finish()
    let begun = false
    for (const part of parts) {
      if (part.term !== term) continue
      const cursor = part.shard.cursor(part.place)
      part.place += 1
      while (cursor.next()) {
        walked += 1
        const document = cursor.document + part.shift
        if (document < 0) continue
        if (document >= documentCount) break
        if (!begun) writer.term(term)
        begun = true
        writer.add(document, cursor.count)
      }
    }
    if (walked >= PAUSE_POSTINGS) {
      walked = 0
      yield
    }
  }
}

/** A shard on its way through its terms. */
class Part {
  place = 0
  /** From its document numbers to those of the result. */
  readonly shift: number

  constructor(
    readonly shard: PostingsShard,
    firstDocument: number,
  ) {
    this.shift = shard.firstDocument - firstDocument
  }

  get term(): number {
    return this.shard.terms[this.place] ?? Number.POSITIVE_INFINITY
  }
}

function overlaps(shard: PostingsShard, firstDocument: number, documentCount: number): boolean {
  return (
    shard.firstDocument < firstDocument + documentCount &&
    shard.firstDocument + shard.documentCount > firstDocument
  )
}
