/**
 * Collects the words of consecutive documents and makes a shard of them.
 */
import type { PostingsShard } from './shard-format.js'
import { ShardWriter } from './shard-writer.js'

export class PostingsBuilder {
  /** Of each posting, in order of the documents: term, document, count. */
  private readonly terms = new GrowingWords()
  private readonly documents = new GrowingWords()
  private readonly counts = new GrowingWords()
  private readonly lengths = new GrowingWords()
  private termsEnd = 0

  /** @param firstDocument number of the first document that is added */
  constructor(private readonly firstDocument: number) {}

  get documentCount(): number {
    return this.lengths.size
  }

  get postingCount(): number {
    return this.terms.size
  }

  /** Adds the next document: each of its terms once, and how many words it has. */
  add(termCounts: Iterable<readonly [term: number, count: number]>, length: number): void {
    for (const [term, count] of termCounts) {
      this.terms.push(term)
      this.documents.push(this.lengths.size)
      this.counts.push(count)
      this.termsEnd = Math.max(this.termsEnd, term + 1)
    }
    this.lengths.push(length)
  }

  /** The shard of everything that was added. */
  finish(): PostingsShard {
    const writer = new ShardWriter(this.firstDocument, this.lengths.words())
    const terms = this.terms.words()
    const documents = this.documents.words()
    const counts = this.counts.words()
    // A counting sort keeps the documents of a term in order.
    const ends = new Uint32Array(this.termsEnd + 1)
    for (const term of terms) ends[term + 1] = (ends[term + 1] ?? 0) + 1
    for (let term = 0; term < this.termsEnd; term += 1) {
      ends[term + 1] = (ends[term + 1] ?? 0) + (ends[term] ?? 0)
    }
    const order = new Uint32Array(terms.length)
    terms.forEach((term, posting) => {
      const at = ends[term] ?? 0
      order[at] = posting
      ends[term] = at + 1
    })
    let before = -1
    for (const posting of order) {
      const term = terms[posting] ?? 0
      if (term !== before) writer.term(term)
      before = term
      writer.add(documents[posting] ?? 0, counts[posting] ?? 0)
    }
    return writer.finish()
  }
}

class GrowingWords {
  size = 0
  private room = new Uint32Array(1_024)

  push(value: number): void {
    if (this.size === this.room.length) {
      const larger = new Uint32Array(this.room.length * 2)
      larger.set(this.room)
      this.room = larger
    }
    this.room[this.size] = value
    this.size += 1
  }

  words(): Uint32Array {
    return this.room.subarray(0, this.size)
  }
}
