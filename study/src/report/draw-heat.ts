/** Marks of a heat map: a row for each series, a column for each category; what has no value is left open. */
import * as Plot from '@observablehq/plot'
import { interpolateViridis } from 'd3-scale-chromatic'
import { numberText } from './number-text.js'
import type { DrawnPlot } from './plot-data.js'

/** Of a cell, so that its value can be written in it. */
const textWidthMinPx = 46
/** Narrower cells would be mostly gap. */
const gapFromPx = 9
/** Viridis grows lighter: from here on dark text is read better. */
const lightFrom = 0.6

export interface HeatRange {
  readonly min: number
  readonly max: number
  readonly isLog: boolean
}

export function heatRange({ plot, series }: DrawnPlot): HeatRange | undefined {
  const values = series.flatMap(({ points }) => points.flatMap(({ y }) => (y === null ? [] : [y])))
  if (values.length === 0) return undefined
  return {
    min: values.reduce((a, b) => Math.min(a, b)),
    max: values.reduce((a, b) => Math.max(a, b)),
    isLog: plot.y.scale === 'log',
  }
}

/** 0 to 1 along the range. */
function shareOf(value: number, { min, max, isLog }: HeatRange): number {
  if (min === max) return 0.5
  return isLog ? Math.log(value / min) / Math.log(max / min) : (value - min) / (max - min)
}

export function cellMarks(drawn: DrawnPlot, names: readonly string[], widthPx: number): Plot.Markish[] {
  const range = heatRange(drawn)
  const cells = drawn.series.flatMap(({ points }, row) =>
    points.flatMap(({ x, y }) => {
      if (y === null || range === undefined) return []
      const share = shareOf(y, range)
      return [
        {
          x,
          row,
          text: numberText(y),
          fill: interpolateViridis(share),
          ink: share < lightFrom ? '#fff' : '#111',
        },
      ]
    }),
  )
  const columns = drawn.categories?.length ?? 1
  const textPx = Math.max(textWidthMinPx, ...cells.map(({ text }) => text.length * 7 + 8))
  return [
    Plot.rect(cells, {
      x1: (cell: { x: number }) => cell.x - 0.5,
      x2: (cell: { x: number }) => cell.x + 0.5,
      y1: (cell: { row: number }) => cell.row - 0.5,
      y2: (cell: { row: number }) => cell.row + 0.5,
      fill: 'fill',
      inset: widthPx / columns < gapFromPx ? 0 : 0.5,
    }),
    ...(widthPx / columns < textPx
      ? []
      : [Plot.text(cells, { x: 'x', y: 'row', text: 'text', fill: 'ink' })]),
    Plot.axisY(
      names.map((_, row) => row),
      { text: [...names], tickSize: 0, label: null, fill: 'var(--muted)' },
    ),
  ]
}
