/**
 * A trace file: recognised, looked through once, then read row by row as virtual time goes on.
 *
 * F1 What is handed out is in order of time, from 0. F2 A row is a request or broken, and every broken one is counted with
 *    its line. F3 Memory does not grow with the file, but for one that has to be sorted, which has a bound.
 */
import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { type FileLine, fileLines } from './file-lines.js'
import { csvFormat, jsonlFormat } from './plain-formats.js'
import { azureFormat, burstGptFormat, mooncakeFormat } from './published-formats.js'
import type { TraceFormat } from './trace-format.js'
import { BrokenRow, type TraceRow } from './trace-row.js'

/** In the order in which they are tried: the more special first. */
const FORMATS: readonly TraceFormat[] = [azureFormat, burstGptFormat, mooncakeFormat, csvFormat, jsonlFormat]
export const FORMAT_NAMES: readonly string[] = FORMATS.map(({ name }) => name)

/** What is done about rows that are no requests, and about times that run backwards. */
export type BrokenRows = 'refuse' | 'keep-rest'

export interface TraceSource {
  readonly file: string
  /** Where its lines stand, of a compressed file; errors name `file`. */
  readonly unpacked?: string
  /** One of FORMAT_NAMES; recognised without it. */
  readonly format?: string
  readonly brokenRows: BrokenRows
}

/** What a trace has, found in a first pass. */
export interface TraceFacts {
  readonly format: string
  readonly rows: number
  readonly brokenRows: number
  /** The first few, as `line: reason`. */
  readonly brokenTold: readonly string[]
  readonly isSorted: boolean
  readonly firstTimeMs: number
  readonly lastTimeMs: number
  /** Tokens of the blocks whose ids rows give; 0 where they give none. */
  readonly idTokens: number
}

export interface NumberedRow {
  readonly line: number
  readonly row: TraceRow
}

const TOLD_MAX = 5
/** About 1 GB; more is sorted with other tools. */
const SORTED_ROWS_MAX = 2_000_000

/**
 * Looks through the whole file. Throws InvalidInputError for a file without rows, and, where broken rows are refused, for
 * broken rows and for times that run backwards, with the first lines and why.
 */
export function traceFacts(source: TraceSource): TraceFacts {
  const { file, brokenRows: choice } = source
  const told: string[] = []
  let [rows, broken, backwards, backwardsLine] = [0, 0, 0, 0]
  let [firstTimeMs, lastTimeMs, beforeMs] = [Infinity, -Infinity, -Infinity]
  let idTokens = 0
  let format = ''
  for (const { line, read, by } of readings(source)) {
    format = by
    if (read instanceof BrokenRow) {
      broken += 1
      if (told.length < TOLD_MAX) told.push(`line ${line}: ${read.message}`)
      continue
    }
    rows += 1
    if (read.ids !== undefined && read.ids.length > 0) idTokens = read.idTokens ?? idTokens
    if (read.timeMs < beforeMs) {
      backwards += 1
      if (backwardsLine === 0) backwardsLine = line
    }
    beforeMs = read.timeMs
    firstTimeMs = Math.min(firstTimeMs, read.timeMs)
    lastTimeMs = Math.max(lastTimeMs, read.timeMs)
  }
  if (broken > 0 && choice === 'refuse') {
    const more = broken > told.length ? `; and ${broken - told.length} more` : ''
    throw new InvalidInputError(
      `${file}: ${counted(broken, 'row is', 'rows are')} broken: ${told.join('; ')}${more}. ${rows === 0 ? 'No row is left: correct the file, or name its format with --format.' : `Correct the file, or take the other ${counted(rows, 'row', 'rows')} with --broken-rows keep-rest.`}`,
      { param: 'trace' },
    )
  }
  if (rows === 0) {
    const why = broken > 0 ? `: ${told.join('; ')}` : ''
    throw new InvalidInputError(
      `${file} has no row that is a request${why}: give a trace with one request a line.`,
      { param: 'trace' },
    )
  }
  if (backwards > 0 && choice === 'refuse') {
    throw new InvalidInputError(
      `${file}:${backwardsLine}: the time runs backwards here, ${counted(backwards, 'time', 'times')} in the file. Sort the file by time, or have it sorted with --broken-rows keep-rest.`,
      { param: 'trace' },
    )
  }
  if (backwards > 0 && rows > SORTED_ROWS_MAX) {
    throw new InvalidInputError(
      `${file}:${backwardsLine}: the time runs backwards here, and ${rows} rows are too many to be sorted in memory: sort the file by time first.`,
      { param: 'trace' },
    )
  }
  const isSorted = backwards === 0
  return {
    ...{ format, rows, brokenRows: broken, brokenTold: told, isSorted },
    ...{ firstTimeMs, lastTimeMs, idTokens },
  }
}

/** Rows in order of time; broken ones, which `traceFacts` has counted, are left out. */
export function* traceRows(source: TraceSource, facts: TraceFacts): Generator<NumberedRow> {
  if (facts.isSorted) {
    yield* goodRows(source)
    return
  }
  // A stable sort: rows of one time stay as they stand in the file.
  yield* [...goodRows(source)].sort((a, b) => a.row.timeMs - b.row.timeMs)
}

function* goodRows(source: TraceSource): Generator<NumberedRow> {
  for (const { line, read } of readings(source)) {
    if (!(read instanceof BrokenRow)) yield { line, row: read }
  }
}

interface Reading {
  readonly line: number
  readonly read: TraceRow | BrokenRow
  readonly by: string
}

function* readings({ file, unpacked, format }: TraceSource): Generator<Reading> {
  let read: ((line: string) => TraceRow) | undefined
  let by = ''
  for (const line of fileLines(file, unpacked)) {
    if (line.text.trim() === '') continue
    if (read === undefined) {
      const found = format === undefined ? recognised(line, file) : named(format)
      by = found.name
      read = found.reader(line.text)
      if (found.hasHeader) continue
    }
    yield { line: line.number, read: attempt(read, line.text), by }
  }
  if (read === undefined) {
    throw new InvalidInputError(`The trace ${file} is empty: give a file with one request a line.`, {
      param: 'trace',
    })
  }
}

function attempt(read: (line: string) => TraceRow, text: string): TraceRow | BrokenRow {
  try {
    return read(text)
  } catch (error) {
    if (error instanceof BrokenRow) return error
    throw error
  }
}

function recognised(line: FileLine, file: string): TraceFormat {
  const found = FORMATS.find((format) => format.isRecognised(line.text))
  if (found) return found
  const begin = line.text.length > 60 ? `${line.text.slice(0, 60)}…` : line.text
  throw new InvalidInputError(
    `${file}:${line.number}: no known format begins with ${JSON.stringify(begin)}. Name one with --format (${FORMAT_NAMES.join(', ')}), or give the file a header such as arrival_ms,prompt_tokens,output_tokens.`,
    { param: 'trace' },
  )
}

function named(name: string): TraceFormat {
  const found = FORMATS.find((format) => format.name === name)
  if (found) return found
  throw new InvalidInputError(
    `There is no trace format ${JSON.stringify(name)}${didYouMean(name, FORMAT_NAMES)}; there are ${FORMAT_NAMES.join(', ')}.`,
    { param: 'format' },
  )
}

function counted(count: number, one: string, many: string): string {
  return `${count} ${count === 1 ? one : many}`
}
