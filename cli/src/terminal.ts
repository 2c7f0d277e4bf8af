/**
 * What goes to the terminal: results on stdout, everything else on stderr; colours only on a
 * terminal and never with NO_COLOR.
 */
import Table from 'cli-table3'
import picocolors from 'picocolors'

export const color = picocolors.createColors(picocolors.isColorSupported && process.stdout.isTTY === true)

/** Progress and notes. */
export function say(line: string): void {
  process.stderr.write(`kvasir: ${line}\n`)
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** The one document of `--json`. */
export function printJson(document: object): void {
  print(JSON.stringify(document, null, 2))
}

export type Align = 'left' | 'right'

/** Per column; a text longer than its width is wrapped. */
export interface TableLayout {
  readonly aligns: readonly Align[]
  readonly widths: readonly number[]
}

/** A table without frame; the first row holds the headings where `head` is given. */
export function renderTable(
  rows: readonly (readonly string[])[],
  head?: readonly string[],
  layout?: TableLayout,
): string {
  const table = new Table({
    ...(layout === undefined
      ? {}
      : {
          colAligns: [...layout.aligns],
          colWidths: [...layout.widths],
          wordWrap: true,
        }),
    chars: {
      top: '',
      'top-mid': '',
      'top-left': '',
      'top-right': '',
      bottom: '',
      'bottom-mid': '',
      'bottom-left': '',
      'bottom-right': '',
      left: '',
      'left-mid': '',
      mid: '',
      'mid-mid': '',
      right: '',
      'right-mid': '',
      middle: '  ',
    },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
  })
  // A heading of fewer lines than others stands right above its cells.
  if (head !== undefined) table.push(head.map((text) => ({ content: color.dim(text), vAlign: 'bottom' })))
  for (const row of rows) table.push([...row])
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')
}

/** Calls `onTick` with the seconds since the start, each second from the second on; stops with the result. */
export async function withProgress<T>(work: Promise<T>, onTick: (seconds: number) => void): Promise<T> {
  let seconds = 0
  const timer = setInterval(() => {
    seconds += 1
    if (seconds >= 2) onTick(seconds)
  }, 1000)
  try {
    return await work
  } finally {
    clearInterval(timer)
  }
}
