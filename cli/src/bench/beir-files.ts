/**
 * Queries and judgements of a test collection in BEIR's layout. Whatever is wrong is said with its file and
 * line, since a figure over half a collection is worth nothing.
 *
 * queries.jsonl: {"_id", "text"} a line. qrels.tsv: query-id, corpus-id and score, separated by tabs, under
 * a line with these names.
 */
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { InvalidInputError, messageOf } from '@kvasir/runtime/errors'
import type { Judgements } from './retrieval-metrics.js'

export interface BeirQuery {
  readonly id: string
  readonly text: string
}

/** In the file's order. Throws InvalidInputError. */
export async function readQueries(file: string): Promise<readonly BeirQuery[]> {
  const queries = new Map<string, BeirQuery>()
  for await (const { number, text: line } of linesOf(file)) {
    const query = queryOf(line, (why) => wrong(file, number, why))
    if (queries.has(query.id)) throw wrong(file, number, `there is a query "${query.id}" already`)
    queries.set(query.id, query)
  }
  if (queries.size === 0) throw new InvalidInputError(`${file} holds no query.`)
  return [...queries.values()]
}

/** Grades by query id. Throws InvalidInputError, also for a query that is not among `queries`. */
export async function readJudgements(
  file: string,
  queries: readonly BeirQuery[],
): Promise<ReadonlyMap<string, Judgements>> {
  const known = new Set(queries.map(({ id }) => id))
  const judgements = new Map<string, Map<string, number>>()
  for await (const { number, text: line } of linesOf(file)) {
    const [queryId = '', documentId = '', score = '', ...more] = line.split('\t')
    if (number === 1 && score.trim() === 'score') continue
    if (queryId === '' || documentId === '' || more.length > 0 || !/^-?\d+$/.test(score.trim())) {
      throw wrong(file, number, 'expected query-id, corpus-id and a whole score, separated by tabs')
    }
    if (!known.has(queryId)) throw wrong(file, number, `there is no query "${queryId}"`)
    const ofQuery = judgements.get(queryId) ?? new Map<string, number>()
    if (ofQuery.has(documentId)) {
      throw wrong(file, number, `document "${documentId}" is judged for query "${queryId}" already`)
    }
    judgements.set(queryId, ofQuery.set(documentId, Number(score)))
  }
  if (judgements.size === 0) throw new InvalidInputError(`${file} holds no judgement.`)
  return judgements
}

export function wrong(file: string, line: number, why: string): InvalidInputError {
  return new InvalidInputError(`${file}, line ${line}: ${why}.`)
}

/** Lines that are not empty, counted from 1. */
async function* linesOf(file: string): AsyncGenerator<{ readonly number: number; readonly text: string }> {
  const input = createReadStream(file, 'utf8')
  const failed = new Promise<never>((_resolve, reject) => {
    input.once('error', (error) => {
      reject(new InvalidInputError(`The file ${file} cannot be read (${messageOf(error)}): give another.`))
    })
  })
  failed.catch(() => {})
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })[Symbol.asyncIterator]()
  let number = 0
  for (;;) {
    const next = await Promise.race([lines.next(), failed])
    if (next.done === true) return
    number += 1
    const text = number === 1 ? next.value.replace(/^\ufeff/, '') : next.value
    if (text.trim() !== '') yield { number, text }
  }
}

function queryOf(line: string, problem: (why: string) => InvalidInputError): BeirQuery {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    throw problem('this is no JSON')
  }
  if (typeof value !== 'object' || value === null) throw problem('expected an object')
  const id = '_id' in value ? value._id : undefined
  const text = 'text' in value ? value.text : undefined
  if (typeof id !== 'string' || id === '') throw problem('"_id" is missing')
  if (typeof text !== 'string' || text.trim() === '') throw problem('"text" is missing or empty')
  return { id, text }
}
