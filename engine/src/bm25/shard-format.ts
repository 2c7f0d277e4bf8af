/**
 * A shard of postings as bytes: which documents of a consecutive range contain which terms, how often,
 * and how long each document is. The same bytes lie in the owner's memory, on the wire and in a device.
 *
 * Layout, little-endian, the parts one after another:
 *   header      40 bytes: magic, format, bytes (u64), CRC-32 of all that follows it, first document,
 *               documents, terms, bytes of postings, 0
 *   lengths     u32 a document: words
 *   terms       u32 each: the corpus' term numbers, ascending
 *   offsets     u32 a term and one: where its postings begin
 *   postings    of each term its documents ascending: varint(2·delta + (count is 1)), and varint(count)
 *               where it is not 1. The delta counts from the document before, from −1 for the first.
 *
 * Invariants:
 * P1 A PostingsShard was checked as a whole, so that reading it needs no further checks: damaged or
 *    foreign bytes are refused with CorruptDataError, never half read.
 * P2 Shards are never changed, and know nothing of the corpus' statistics.
 */
import { crc32 } from 'node:zlib'
import { CorruptDataError } from '@kvasir/runtime/errors'

export const HEADER_BYTES = 40
const MAGIC = 0x4d42564b // "KVBM"
const FORMAT = 1
/** Where the checksum begins to count. */
const CHECKED_FROM = 20

export interface ShardHeader {
  /** The whole shard's. */
  readonly bytes: number
  readonly firstDocument: number
  readonly documentCount: number
  readonly termCount: number
  readonly postingsBytes: number
}

export class PostingsShard {
  private constructor(
    readonly bytes: Uint8Array,
    readonly firstDocument: number,
    readonly lengths: Uint32Array,
    readonly terms: Uint32Array,
    private readonly offsets: Uint32Array,
    private readonly postings: Uint8Array,
  ) {}

  get documentCount(): number {
    return this.lengths.length
  }

  /** Takes `bytes` over where they are aligned to 4, else a copy. Throws CorruptDataError. */
  static parse(bytes: Uint8Array): PostingsShard {
    const header = readShardHeader(bytes)
    if (header.bytes !== bytes.length) {
      throw damaged(`it has ${bytes.length} bytes and says ${header.bytes}`)
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    if (crc32(bytes.subarray(CHECKED_FROM)) !== view.getUint32(16, true)) {
      throw damaged('its checksum does not match')
    }
    const shard = PostingsShard.view(bytes.byteOffset % 4 === 0 ? bytes : bytes.slice(), header)
    shard.check()
    return shard
  }

  /** Over bytes that were just written by code of ours. */
  static trusted(bytes: Uint8Array): PostingsShard {
    return PostingsShard.view(bytes, readShardHeader(bytes))
  }

  private static view(bytes: Uint8Array, header: ShardHeader): PostingsShard {
    const { firstDocument, documentCount, termCount, postingsBytes } = header
    let at = bytes.byteOffset + HEADER_BYTES
    const words = (count: number) => {
      const part = new Uint32Array(bytes.buffer, at, count)
      at += part.byteLength
      return part
    }
    const lengths = words(documentCount)
    const terms = words(termCount)
    const offsets = words(termCount + 1)
    const postings = new Uint8Array(bytes.buffer, at, postingsBytes)
    return new PostingsShard(bytes, firstDocument, lengths, terms, offsets, postings)
  }

  /** Place of a term in the directory; −1 where no document of the shard contains it. */
  placeOf(term: number): number {
    const { terms } = this
    let low = 0
    let high = terms.length - 1
    while (low <= high) {
      const middle = (low + high) >>> 1
      const found = terms[middle] ?? 0
      if (found === term) return middle
      if (found < term) low = middle + 1
      else high = middle - 1
    }
    return -1
  }

  /** The postings of the term at a place of the directory. */
  cursor(place: number): PostingsCursor {
    return new PostingsCursor(this.postings, this.offsets[place] ?? 0, this.offsets[place + 1] ?? 0)
  }

  /** Bytes of the postings of the term at a place of the directory. */
  postingsBytesAt(place: number): number {
    return (this.offsets[place + 1] ?? 0) - (this.offsets[place] ?? 0)
  }

  private check(): void {
    const { terms, offsets, postings, documentCount } = this
    if ((offsets[0] ?? 0) !== 0 || (offsets[terms.length] ?? 0) !== postings.length) {
      throw damaged('its directory does not cover its postings')
    }
    for (let place = 0; place < terms.length; place += 1) {
      if (place > 0 && (terms[place] ?? 0) <= (terms[place - 1] ?? 0))
        throw damaged('its terms are not in order')
      const begin = offsets[place] ?? 0
      const end = offsets[place + 1] ?? 0
      if (end <= begin || end > postings.length) throw damaged('a term has no postings')
      const cursor = this.cursor(place)
      let before = -1
      while (cursor.next()) {
        if (cursor.document <= before || cursor.document >= documentCount) {
          throw damaged('a posting is outside its documents')
        }
        if (cursor.count < 1) throw damaged('a posting counts nothing')
        before = cursor.document
      }
      if (cursor.position !== end) throw damaged('a posting is cut off')
    }
  }
}

/** Walks the postings of one term. */
export class PostingsCursor {
  /** Within the shard, counted from 0. */
  document = -1
  /** How often the document contains the term. */
  count = 0

  constructor(
    private readonly postings: Uint8Array,
    public position: number,
    private readonly end: number,
  ) {}

  /** False after the last one. */
  next(): boolean {
    if (this.position >= this.end) return false
    const code = this.varint()
    this.document += code >>> 1
    this.count = (code & 1) === 1 ? 1 : this.varint()
    return true
  }

  private varint(): number {
    let value = 0
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.postings[this.position] ?? 0
      this.position += 1
      value |= (byte & 0x7f) << shift
      if (byte < 0x80) break
    }
    return value >>> 0
  }
}

/** The header at the start of `bytes`, which may be the first part of a shard. Throws CorruptDataError. */
export function readShardHeader(bytes: Uint8Array): ShardHeader {
  if (bytes.length < HEADER_BYTES) throw damaged(`it has ${bytes.length} bytes`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES)
  if (view.getUint32(0, true) !== MAGIC) throw damaged('it does not begin like one')
  const format = view.getUint32(4, true)
  if (format !== FORMAT) throw damaged(`it has format ${format}, this release reads ${FORMAT}`)
  const header = {
    bytes: Number(view.getBigUint64(8, true)),
    firstDocument: view.getUint32(20, true),
    documentCount: view.getUint32(24, true),
    termCount: view.getUint32(28, true),
    postingsBytes: view.getUint32(32, true),
  }
  if (header.bytes !== shardBytesOf(header)) throw damaged('its sizes contradict each other')
  return header
}

export function shardBytesOf(header: Omit<ShardHeader, 'bytes' | 'firstDocument'>): number {
  const { documentCount, termCount, postingsBytes } = header
  return HEADER_BYTES + 4 * (documentCount + termCount + termCount + 1) + postingsBytes
}

/** Writes the header of a shard whose other parts are in place. */
export function sealShard(bytes: Uint8Array, header: Omit<ShardHeader, 'bytes'>): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  view.setUint32(0, MAGIC, true)
  view.setUint32(4, FORMAT, true)
  view.setBigUint64(8, BigInt(bytes.length), true)
  view.setUint32(20, header.firstDocument, true)
  view.setUint32(24, header.documentCount, true)
  view.setUint32(28, header.termCount, true)
  view.setUint32(32, header.postingsBytes, true)
  view.setUint32(36, 0, true)
  view.setUint32(16, crc32(bytes.subarray(CHECKED_FROM)), true)
}

function damaged(why: string): CorruptDataError {
  return new CorruptDataError(`A shard of postings is damaged: ${why}; fetch it again from its owner.`)
}
