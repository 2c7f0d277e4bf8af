/** A kind of trace file: how it is recognised, and how a line of it becomes a row. */
import { InvalidInputError } from '@kvasir/runtime/errors'
import Papa from 'papaparse'
import { BrokenRow, type TraceRow } from './trace-row.js'

export interface TraceFormat {
  readonly name: string
  /** By its first line. */
  isRecognised(firstLine: string): boolean
  /**
   * Reader of the lines, made from the first one, which is `hasHeader` or a row itself. The reader throws BrokenRow.
   * Throws InvalidInputError for a header that lacks a column.
   */
  reader(firstLine: string): (line: string) => TraceRow
  readonly hasHeader: boolean
}

/** Cells of a line of CSV. A cell cannot go over several lines: no trace has texts. */
export function csvCells(line: string, delimiter: string): readonly string[] {
  const { data, errors } = Papa.parse<readonly string[]>(line, { delimiter, newline: '\n' })
  if (errors[0]) throw new BrokenRow(`this is not CSV: ${errors[0].message}`)
  return (data[0] ?? []).map((cell) => cell.trim())
}

/** What a header of columns says: names in small letters, `_` for what is no letter and no digit. */
export interface CsvHeader {
  readonly delimiter: string
  readonly columns: ReadonlyMap<string, number>
}

export function csvHeader(line: string): CsvHeader {
  const delimiter = [',', ';', '\t'].find((one) => line.includes(one)) ?? ','
  let cells: readonly string[] = []
  try {
    cells = csvCells(line, delimiter)
  } catch {
    // A line that is no CSV has no columns.
  }
  return { delimiter, columns: new Map(cells.map((cell, index) => [columnName(cell), index])) }
}

function columnName(cell: string): string {
  return cell
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '_')
    .replaceAll(/^_|_$/g, '')
}

/** Cells of a line by the name of their column; a missing or empty one is undefined. */
export function csvRecords(header: CsvHeader): (line: string) => (column: string) => string | undefined {
  return (line) => {
    const cells = csvCells(line, header.delimiter)
    if (cells.length > header.columns.size) {
      throw new BrokenRow(`it has ${cells.length} cells, the header ${header.columns.size}`)
    }
    return (column) => {
      const cell = cells[header.columns.get(column) ?? -1]
      return cell === '' ? undefined : cell
    }
  }
}

export function hasColumns({ columns }: CsvHeader, names: readonly string[]): boolean {
  return names.every((name) => columns.has(name))
}

export function needColumns(header: CsvHeader, format: string, names: readonly string[]): void {
  const missing = names.filter((name) => !header.columns.has(name))
  if (missing.length === 0) return
  throw new InvalidInputError(
    `A trace of format ${format} needs the columns ${names.join(', ')} in its first line, and ${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing; name another format with --format.`,
    { param: 'format' },
  )
}

/** Undefined where the line is no JSON object. */
export function jsonRecord(line: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined
  } catch {
    return undefined
  }
}

export function neededJsonRecord(line: string): Readonly<Record<string, unknown>> {
  const record = jsonRecord(line)
  if (record === undefined) throw new BrokenRow('it is not a JSON object')
  return record
}
