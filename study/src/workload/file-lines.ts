/**
 * Lines of a file, read piece by piece: the memory it takes depends on the longest line and not on the file. Reading is
 * synchronous because virtual time pulls requests as it goes.
 *
 * Lines end with LF or CRLF; a byte order mark at the beginning is left out. Throws InvalidInputError for a file that cannot be read, for one
 * that is compressed, and for a line longer than any row of a trace.
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { StringDecoder } from 'node:string_decoder'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'

export interface FileLine {
  /** From 1. */
  readonly number: number
  readonly text: string
}

const PIECE_BYTES = 1 << 18
const LINE_CHARS_MAX = 1 << 24

/** @param unpacked where the lines of `file` stand, if not in itself; errors name `file` */
export function* fileLines(file: string, unpacked = file): Generator<FileLine> {
  const handle = opened(file, unpacked)
  try {
    const piece = Buffer.allocUnsafe(PIECE_BYTES)
    const decoder = new StringDecoder('utf8')
    let rest = ''
    let number = 0
    for (let isFirst = true; ; isFirst = false) {
      const count = readPiece(handle, piece, file)
      if (isFirst) refuseCompressed(piece.subarray(0, count), file)
      const read = count === 0 ? decoder.end() : decoder.write(piece.subarray(0, count))
      const text = rest + (isFirst && read.startsWith('\uFEFF') ? read.slice(1) : read)
      let from = 0
      for (let to = text.indexOf('\n'); to >= 0; to = text.indexOf('\n', from)) {
        number += 1
        yield { number, text: text.slice(from, text[to - 1] === '\r' ? to - 1 : to) }
        from = to + 1
      }
      rest = text.slice(from)
      if (rest.length > LINE_CHARS_MAX) {
        throw new InvalidInputError(
          `${file}:${number + 1}: the line is longer than ${LINE_CHARS_MAX} characters; a trace has one request a line.`,
          { param: 'trace' },
        )
      }
      if (count === 0) break
    }
    if (rest !== '') yield { number: number + 1, text: rest }
  } finally {
    closeSync(handle)
  }
}

function opened(file: string, unpacked: string): number {
  try {
    return openSync(unpacked, 'r')
  } catch (error) {
    throw new InvalidInputError(
      `The trace ${file} cannot be read (${messageOf(error)}): give the path of a CSV or JSONL file with --trace.`,
      { param: 'trace' },
    )
  }
}

function readPiece(handle: number, piece: Buffer, file: string): number {
  try {
    return readSync(handle, piece, 0, piece.length, null)
  } catch (error) {
    throw new InvalidInputError(
      `The trace ${file} cannot be read (${messageOf(error)}): give the path of a CSV or JSONL file with --trace.`,
      { param: 'trace' },
    )
  }
}

/** Of gzip, Zstandard and zip. */
const COMPRESSED = [
  [0x1f, 0x8b],
  [0x28, 0xb5, 0x2f, 0xfd],
  [0x50, 0x4b, 0x03, 0x04],
]

function refuseCompressed(begin: Buffer, file: string): void {
  if (!COMPRESSED.some((magic) => magic.every((byte, index) => begin[index] === byte))) return
  throw new InvalidInputError(
    `The trace ${file} is compressed: unpack it first, or compress it once and with gzip.`,
    { param: 'trace' },
  )
}
