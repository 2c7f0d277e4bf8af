/**
 * Header blocks of HTTP/2 (RFC 7541).
 *
 * What we send is literal and never indexed: a call has few headers beside megabytes of data. What a peer
 * sends may use all of the standard.
 */
import { type Header, HUFFMAN_BITS, STATIC_TABLE } from './hpack-tables.js'
import { H2, Http2Error } from './http2-error.js'

/** Of the dynamic table, which we leave at the standard's default. */
const TABLE_BYTES_MAX = 4_096
/** What an entry counts beside its text. */
const ENTRY_BYTES = 32
/** All headers of one block, decoded. */
const HEADERS_BYTES_MAX = 64 << 10

export function encodeHeaders(headers: Iterable<Header>): Buffer {
  const parts: Buffer[] = []
  for (const [name, value] of headers) parts.push(Buffer.of(0), encodeText(name), encodeText(value))
  return Buffer.concat(parts)
}

function encodeText(text: string): Buffer {
  const bytes = Buffer.from(text, 'latin1')
  const head: number[] = []
  if (bytes.length < 127) head.push(bytes.length)
  else {
    head.push(127)
    let rest = bytes.length - 127
    for (; rest >= 128; rest >>= 7) head.push((rest & 127) | 128)
    head.push(rest)
  }
  return Buffer.concat([Buffer.from(head), bytes])
}

/** One a connection: its table changes with every block, so each block must be decoded, in order. */
export class HeaderDecoder {
  /** The newest first. */
  private readonly table: Header[] = []
  private tableBytes = 0
  private tableBytesMax = TABLE_BYTES_MAX
  private block: Buffer = Buffer.alloc(0)
  private at = 0

  /** Throws Http2Error where the block is malformed or too large. */
  decode(block: Buffer): Header[] {
    this.block = block
    this.at = 0
    const headers: Header[] = []
    let bytes = 0
    while (this.at < block.length) {
      const header = this.next()
      if (header === undefined) continue
      bytes += sizeOf(header)
      if (bytes > HEADERS_BYTES_MAX) throw new Http2Error(H2.calm, 'The headers are too large.')
      headers.push(header)
    }
    return headers
  }

  /** undefined for an instruction that is no header. */
  private next(): Header | undefined {
    const first = this.block[this.at] ?? 0
    if (first & 0x80) return this.entry(this.integer(7))
    if ((first & 0xe0) === 0x20) {
      this.resize(this.integer(5))
      return undefined
    }
    const indexed = (first & 0x40) !== 0
    const index = this.integer(indexed ? 6 : 4)
    const name = index === 0 ? this.text() : this.entry(index)[0]
    const header: Header = [name, this.text()]
    if (indexed) this.add(header)
    return header
  }

  private entry(index: number): Header {
    const found = STATIC_TABLE[index - 1] ?? this.table[index - 1 - STATIC_TABLE.length]
    if (found === undefined) throw malformed()
    return found
  }

  private add(header: Header): void {
    this.table.unshift(header)
    this.tableBytes += sizeOf(header)
    this.evict()
  }

  private resize(bytes: number): void {
    if (bytes > TABLE_BYTES_MAX) throw malformed()
    this.tableBytesMax = bytes
    this.evict()
  }

  private evict(): void {
    while (this.tableBytes > this.tableBytesMax) {
      const oldest = this.table.pop()
      if (oldest === undefined) break
      this.tableBytes -= sizeOf(oldest)
    }
  }

  /** An integer whose first `bits` bits stand in the next byte. */
  private integer(bits: number): number {
    const most = 2 ** bits - 1
    let value = this.byte() & most
    if (value < most) return value
    for (let shift = 1; ; shift *= 128) {
      const byte = this.byte()
      value += (byte & 127) * shift
      if (value > HEADERS_BYTES_MAX) throw malformed()
      if (byte < 128) return value
    }
  }

  private text(): string {
    const packed = ((this.block[this.at] ?? 0) & 0x80) !== 0
    const length = this.integer(7)
    const end = this.at + length
    if (end > this.block.length) throw malformed()
    const bytes = this.block.subarray(this.at, end)
    this.at = end
    return packed ? unpacked(bytes) : bytes.toString('latin1')
  }

  private byte(): number {
    const byte = this.block[this.at]
    if (byte === undefined) throw malformed()
    this.at += 1
    return byte
  }
}

function sizeOf([name, value]: Header): number {
  return name.length + value.length + ENTRY_BYTES
}

function malformed(): Http2Error {
  return new Http2Error(H2.compression, 'A header block is malformed.')
}

/** The symbols by code: of each length the first code, and its symbols in order. */
const BITS_MAX = Math.max(...HUFFMAN_BITS)
const CODES = huffmanCodes()

function huffmanCodes(): { readonly first: number; readonly symbols: readonly number[] }[] {
  let first = 0
  return Array.from({ length: BITS_MAX + 1 }, (_, bits) => {
    const symbols = [...HUFFMAN_BITS.keys()].filter((symbol) => HUFFMAN_BITS[symbol] === bits)
    const codes = { first, symbols }
    first = (first + symbols.length) * 2
    return codes
  })
}

function unpacked(bytes: Buffer): string {
  const out: number[] = []
  let code = 0
  let bits = 0
  for (const byte of bytes) {
    for (let bit = 7; bit >= 0; bit -= 1) {
      code = code * 2 + ((byte >> bit) & 1)
      bits += 1
      const { first, symbols } = CODES[bits] ?? { first: 0, symbols: [] }
      const symbol = symbols[code - first]
      if (symbol === 256 || bits > BITS_MAX) throw malformed()
      if (symbol === undefined) continue
      out.push(symbol)
      code = 0
      bits = 0
    }
  }
  // What is left is padding: ones, fewer than a byte.
  if (bits > 7 || code !== 2 ** bits - 1) throw malformed()
  return Buffer.from(out).toString('latin1')
}
