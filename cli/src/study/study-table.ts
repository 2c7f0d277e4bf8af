/**
 * A table of a study for a terminal of some width: numbers to the right, long texts wrapped, and where the columns do not
 * fit side by side, in parts that each begin with the first column.
 */
import { numberText } from '@kvasir/study/report/number-text'
import type { Cell, StudyTable } from '@kvasir/study/study'
import { formatForeign, wrapText } from '../format.js'
import { type Align, color, renderTable } from '../terminal.js'

/** More are read in results.json and the report. */
const rowsMax = 60
/** How wide a column of texts may be: the widest with which all columns fit side by side, else the first. */
const textCellsMax = [44, 34, 26, 20] as const
const gapCells = 2

/** Headings are folded to about what is below them. */
const headCellsMin = 12

interface Column {
  /** May have several lines. */
  readonly head: string
  readonly cells: readonly string[]
  readonly align: Align
  readonly width: number
}

/** Empty for a table without rows. */
export function renderStudyTable(table: StudyTable, width: number): string {
  if (table.rows.length === 0) return ''
  const shown = table.rows.slice(0, rowsMax)
  const columns = columnsFor(table, shown, width)
  const hasHead = columns.some(({ head }) => head !== '')
  const texts = partsOf(columns, width).map((part) =>
    renderTable(
      shown.map((_, row) => part.map(({ cells }) => cells[row] ?? '')),
      hasHead ? part.map(({ head }) => head) : undefined,
      { aligns: part.map(({ align }) => align), widths: part.map((column) => column.width) },
    ),
  )
  const more = table.rows.length - shown.length
  return [
    table.title === '' ? '' : color.bold(formatForeign(table.title)),
    texts.join('\n\n'),
    more > 0 ? color.dim(`… and ${more} more rows in results.json`) : '',
    table.note === undefined ? '' : color.dim(wrapText(formatForeign(table.note), width).join('\n')),
  ]
    .filter((text) => text !== '')
    .join('\n')
}

type Rows = readonly Readonly<Record<string, Cell>>[]

function columnsFor({ columns }: StudyTable, rows: Rows, width: number): readonly Column[] {
  const tried = textCellsMax.map((cellsMax) => columns.map((column) => toColumn(column, rows, cellsMax)))
  return tried.find((each) => partsOf(each, width).length <= 1) ?? tried[0] ?? []
}

function toColumn({ key, label, unit }: StudyTable['columns'][number], rows: Rows, widthMax: number): Column {
  const values = rows.map((row) => row[key] ?? null)
  const cells = values.map(cellText)
  const cellsMax = Math.min(widthMax, Math.max(headCellsMin, ...cells.map((text) => text.length)))
  const head = [
    ...wrapText(formatForeign(label), cellsMax),
    ...(unit === undefined ? [] : [formatForeign(unit)]),
  ]
  const longest = Math.max(...[...head, ...cells].map((text) => text.length), 1)
  const isText = values.some((value) => typeof value === 'string')
  return {
    head: head.join('\n'),
    cells,
    align: isText ? 'left' : 'right',
    width: Math.min(longest, widthMax),
  }
}

function cellText(cell: Cell): string {
  if (cell === null) return '–'
  return typeof cell === 'number' ? numberText(cell) : formatForeign(cell)
}

/** As many columns a part as fit, at least one beside the first. */
function partsOf(columns: readonly Column[], width: number): readonly (readonly Column[])[] {
  const [first, ...rest] = columns
  if (first === undefined) return []
  const parts: Column[][] = [[first]]
  let used = first.width
  for (const column of rest) {
    const part = parts.at(-1)
    if (part === undefined || (used + gapCells + column.width > width && part.length > 1)) {
      parts.push([first, column])
      used = first.width + gapCells + column.width
    } else {
      part.push(column)
      used += gapCells + column.width
    }
  }
  return parts
}
