/** Marks of grouped bars: a band for each category, in it a bar for each series; references are hollow and dashed. */
import * as Plot from '@observablehq/plot'
import type { DrawnPlot } from './plot-data.js'

/** Of a band, that its bars fill together. */
const bandShare = 0.78
/** One bar alone is not as wide as its band. */
const barShareMax = 0.46
const gapShare = 0.08

export function barMarks({ series }: DrawnPlot, [low]: readonly [number, number]): Plot.Markish[] {
  const barShare = Math.min(barShareMax, bandShare / Math.max(1, series.length))
  const base = Math.max(0, low)
  const marks = series.map(({ points, style }, index) => {
    const from = (index - series.length / 2) * barShare
    return Plot.rect(
      points.flatMap(({ x, y }) =>
        y === null
          ? []
          : [{ x1: x + from + (barShare * gapShare) / 2, x2: x + from + barShare * (1 - gapShare / 2), y }],
      ),
      {
        x1: 'x1',
        x2: 'x2',
        y1: base,
        y2: 'y',
        stroke: style.colour,
        strokeWidth: style.isReference ? 1.4 : 0,
        fill: style.isReference ? 'var(--panel)' : style.colour,
        ...(style.isReference ? { strokeDasharray: '4 2' } : {}),
      },
    )
  })
  return [...marks, Plot.ruleY([base], { stroke: 'var(--muted)' })]
}
