/**
 * Puts a shard together: term by term in ascending order, each with its documents in ascending order.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { HEADER_BYTES, PostingsShard, sealShard, shardBytesOf } from './shard-format.js'

/** Directory offsets are 32 bits wide. */
const POSTINGS_BYTES_MAX = 2 ** 32 - 1

export class ShardWriter {
  private readonly terms: number[] = []
  private readonly offsets: number[] = []
  private postings = new Uint8Array(1 << 12)
  private used = 0
  private before = -1

  /** @param lengths of each document of the shard its words */
  constructor(
    private readonly firstDocument: number,
    private readonly lengths: Uint32Array,
  ) {}

  /** Begins a term: what is added from now on is its. At least one posting follows. */
  term(term: number): void {
    this.terms.push(term)
    this.offsets.push(this.used)
    this.before = -1
  }

  /** @param document within the shard, counted from 0 */
  add(document: number, count: number): void {
    if (this.used + 10 > this.postings.length) this.grow()
    const delta = document - this.before
    this.before = document
    this.varint((delta * 2 + (count === 1 ? 1 : 0)) >>> 0)
    if (count !== 1) this.varint(count)
  }

  finish(): PostingsShard {
    const { firstDocument, lengths, terms, used } = this
    const header = {
      firstDocument,
      documentCount: lengths.length,
      termCount: terms.length,
      postingsBytes: used,
    }
    const bytes = new Uint8Array(shardBytesOf(header))
    const words = new Uint32Array(bytes.buffer, HEADER_BYTES, lengths.length + 2 * terms.length + 1)
    words.set(lengths)
    words.set(terms, lengths.length)
    words.set(this.offsets, lengths.length + terms.length)
    words[words.length - 1] = used
    bytes.set(this.postings.subarray(0, used), HEADER_BYTES + words.byteLength)
    sealShard(bytes, header)
    return PostingsShard.trusted(bytes)
  }

  private varint(value: number): void {
    let rest = value
    while (rest >= 0x80) {
      this.postings[this.used] = (rest & 0x7f) | 0x80
      this.used += 1
      rest >>>= 7
    }
    this.postings[this.used] = rest
    this.used += 1
  }

  private grow(): void {
    if (this.used + 10 > POSTINGS_BYTES_MAX) {
      throw new InvalidInputError('A shard of postings would exceed 4 GiB; cut the corpus into more shards.')
    }
    const larger = new Uint8Array(Math.min(this.postings.length * 2, POSTINGS_BYTES_MAX))
    larger.set(this.postings)
    this.postings = larger
  }
}
