/** Draws a trace as text: the tree, where each span ran, when, for how long, a bar, and what it did. */
import { ATTRIBUTE, GEN_AI, SPAN } from '@kvasir/runtime/telemetry-names'
import { formatBytes, formatCount, formatDuration, formatRate, formatShare } from '../format.js'
import { buildSpanTree, numberAttribute, placeOf, type SpanNode, type TraceSpan } from './span-tree.js'

export interface DrawOptions {
  /** Cells of a bar; 0 draws none. */
  readonly barCells: number
  /** Marks the lines of spans that failed. */
  readonly highlight: (line: string) => string
}

/** Parts of a cell from empty to full, in eighths. */
const eighths = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█']

interface Row {
  readonly name: string
  readonly where: string
  readonly start: string
  readonly duration: string
  readonly bar: string
  readonly what: string
  readonly failed: boolean
}

/** One line a span. */
export function drawTree(spans: readonly TraceSpan[], options: DrawOptions): string[] {
  const tree = buildSpanTree(spans)
  const rows: Row[] = []
  const visit = (node: SpanNode, branch: string, indent: string) => {
    rows.push({
      name: branch + node.span.name,
      where: placeOf(node.span),
      start: `+${formatDuration(node.startUs / 1000)}`,
      duration: formatDuration(node.durationUs / 1000),
      bar: drawBar(node.startUs, node.durationUs, tree.durationUs, options.barCells),
      what: describe(node.span),
      failed: node.span.status.code === 'error',
    })
    node.children.forEach((child, index) => {
      const last = index === node.children.length - 1
      visit(child, indent + (last ? '└─ ' : '├─ '), indent + (last ? '   ' : '│  '))
    })
  }
  for (const root of tree.roots) visit(root, '', '')
  return layOut(rows, options)
}

function layOut(rows: readonly Row[], options: DrawOptions): string[] {
  const width = (cell: (row: Row) => string) => Math.max(0, ...rows.map((row) => cell(row).length))
  const nameWidth = width((row) => row.name)
  const whereWidth = width((row) => row.where)
  const startWidth = width((row) => row.start)
  const durationWidth = width((row) => row.duration)
  return rows.map((row) => {
    const cells = [
      row.name.padEnd(nameWidth),
      row.where.padEnd(whereWidth),
      row.start.padStart(startWidth),
      row.duration.padStart(durationWidth),
      ...(options.barCells > 0 ? [row.bar] : []),
      row.what,
    ]
    const line = cells.join('  ').trimEnd()
    return row.failed ? options.highlight(line) : line
  })
}

/** A span's place in the whole; the shortest span still shows. */
export function drawBar(startUs: number, durationUs: number, wholeUs: number, cells: number): string {
  const units = cells * 8
  const scale = wholeUs > 0 ? units / wholeUs : 0
  const from = Math.min(units - 1, Math.floor(startUs * scale))
  const to = Math.min(units, Math.max(from + 1, Math.round((startUs + durationUs) * scale)))
  let bar = ''
  for (let cell = 0; cell < cells; cell++) {
    const covered = Math.min(to, cell * 8 + 8) - Math.max(from, cell * 8)
    bar += eighths[Math.max(0, covered)]
  }
  return bar
}

/** What the span did, in a few words; its error where it failed. */
function describe(span: TraceSpan): string {
  const words = detailsOf(span)
  if (span.status.code === 'error') words.push(`failed: ${span.status.message || 'no reason given'}`)
  return words.join(', ')
}

function detailsOf(span: TraceSpan): string[] {
  const number = (name: string) => numberAttribute(span, name)
  const text = (name: string) => {
    const value = span.attributes[name]
    return typeof value === 'string' ? [value] : []
  }
  const counted = (name: string, noun: string, suffix = '') => {
    const value = number(name)
    return value === undefined ? [] : [`${formatCount(value, noun)}${suffix}`]
  }
  switch (span.name) {
    case SPAN.request:
      return [
        ...text(GEN_AI.requestModel),
        ...counted(GEN_AI.usageInputTokens, 'token', ' in'),
        ...counted(GEN_AI.usageOutputTokens, 'token', ' out'),
      ]
    case SPAN.place:
      return text(ATTRIBUTE.placementReason)
    case SPAN.prepare:
      return counted(ATTRIBUTE.tokens, 'token')
    case SPAN.prefillRun:
    case SPAN.decodeRun:
      return [
        ...counted(ATTRIBUTE.tokens, 'token'),
        ...text(ATTRIBUTE.pace).map((pace) => `at the pace of ${pace}`),
      ]
    case SPAN.reserve:
    case SPAN.prefill:
    case SPAN.decode:
      return text(ATTRIBUTE.deviceId).map((device) => `→ ${device}`)
    case SPAN.kvSend:
    case SPAN.kvReceive: {
      const bytes = number(ATTRIBUTE.kvBytes)
      const rate = number(ATTRIBUTE.kvBytesPerSecond)
      const overlap = number(ATTRIBUTE.kvOverlap)
      return [
        ...(bytes === undefined ? [] : [formatBytes(bytes)]),
        ...counted(ATTRIBUTE.kvChunks, 'chunk'),
        ...(rate === undefined ? [] : [formatRate(rate)]),
        ...(overlap === undefined ? [] : [`${formatShare(overlap)} hidden behind prefill`]),
      ]
    }
    default:
      return []
  }
}
