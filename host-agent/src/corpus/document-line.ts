/**
 * One line of JSONL as a document, or the reason why it is none. The layout is that of BEIR:
 * {"_id": text, "title"?: text, "text": text}; other fields are passed over.
 */
import type { Document } from '@kvasir/proto/kvasir/memory/v1/corpus'

/** A line longer than this, bytes, is not taken: a million letters are more than any model's context. */
export const DOCUMENT_BYTES_MAX = 1 << 20
const ID_CHARACTERS_MAX = 512

/** What keeps a line from being a document; the message is a sentence for a person. */
export class LineProblem extends Error {}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const BYTE_ORDER_MARK = '\ufeff'

/**
 * @param bytes without the line feed; undefined for a line that was too long to hold
 * @returns undefined for an empty line
 * @throws LineProblem
 */
export function parseDocumentLine(bytes: Uint8Array | undefined, firstLine: boolean): Document | undefined {
  if (bytes === undefined) {
    throw new LineProblem(
      `The document is longer than ${DOCUMENT_BYTES_MAX} bytes; split it into several documents.`,
    )
  }
  const line = decode(bytes)
  const text = firstLine && line.startsWith(BYTE_ORDER_MARK) ? line.slice(1) : line
  if (text.trim() === '') return undefined
  const fields = parse(text)
  const id = field(fields, '_id')
  if (id === undefined || id === '') {
    throw new LineProblem('The document has no "_id"; give each document a text of its own as "_id".')
  }
  if (id.length > ID_CHARACTERS_MAX) {
    throw new LineProblem(`The "_id" is longer than ${ID_CHARACTERS_MAX} characters; shorten it.`)
  }
  const title = field(fields, 'title') ?? ''
  const body = field(fields, 'text')
  if (body === undefined)
    throw new LineProblem('The document has no "text"; give it one, if only an empty one.')
  return { id, title, text: body }
}

/** The line under which a document is kept. */
export function documentLine({ id, title, text }: Document): string {
  return `${JSON.stringify({ _id: id, title, text })}\n`
}

function decode(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes)
  } catch {
    throw new LineProblem('The line is not UTF-8; save the file as UTF-8.')
  }
}

function parse(text: string): object {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new LineProblem(`The line is not JSON: ${wellFormed(reason)}.`)
  }
  if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) return parsed
  throw new LineProblem('The line is JSON but no object; a document is {"_id": …, "title": …, "text": …}.')
}

function field(fields: object, name: string): string | undefined {
  const value: unknown = Object.hasOwn(fields, name) ? Reflect.get(fields, name) : undefined
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'string') throw new LineProblem(`"${name}" is not a text; put it in quotation marks.`)
  return wellFormed(value)
}

/** An escaped lone surrogate would be another text once it has been through UTF-8. */
function wellFormed(text: string): string {
  return Buffer.from(text, 'utf8').toString('utf8')
}
