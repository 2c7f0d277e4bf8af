/** Marks of lines, steps and dots, and of the rules across them. */
import * as Plot from '@observablehq/plot'
import type { Axis } from './plot-axis.js'
import type { DrawnPlot, DrawnSeries } from './plot-data.js'

/** More points stand too close for symbols. */
const symbolsMax = 30
const crowd = 250

export function lineMarks({ plot, series }: DrawnPlot): Plot.Markish[] {
  // References last: they are thin and must not be hidden.
  const ordered = series.toSorted((a, b) => Number(a.style.isReference) - Number(b.style.isReference))
  if (plot.kind === 'dots') return ordered.map((each) => dots(each, each.points))
  const curve = plot.kind === 'steps' ? 'step-after' : 'linear'
  return ordered.flatMap((each) => [
    Plot.line(each.points, {
      x: 'x',
      y: (point: { readonly y: number | null }) => point.y ?? Number.NaN,
      stroke: each.style.colour,
      strokeWidth: each.style.isReference ? 1.6 : 2,
      curve,
      ...(each.style.dash === undefined ? {} : { strokeDasharray: each.style.dash }),
    }),
    dots(each, symbolPoints(each, plot.kind === 'steps')),
  ])
}

/** All where they are few; else those that no line would show, between two gaps. */
function symbolPoints({ points, style }: DrawnSeries, isSteps: boolean): DrawnSeries['points'] {
  if (points.length <= symbolsMax && (!isSteps || style.isReference || points.length === 1)) return points
  return points.filter((_, index) => {
    const before = points[index - 1]?.y ?? null
    const after = points[index + 1]?.y ?? null
    return before === null && after === null
  })
}

function dots({ style }: DrawnSeries, points: DrawnSeries['points']): Plot.Markish {
  const isCrowd = points.length > crowd
  return Plot.dot(
    points.filter(({ y }) => y !== null),
    {
      x: 'x',
      y: 'y',
      symbol: style.symbol,
      r: isCrowd ? 2 : 3.6,
      stroke: style.colour,
      strokeWidth: style.isReference ? 1.6 : 1,
      fill: style.isReference ? 'var(--panel)' : style.colour,
      ...(isCrowd ? { fillOpacity: 0.5, strokeOpacity: 0.6 } : {}),
    },
  )
}

/** Each with its label above its end; one beyond the axis is left out (the legend still names it). */
export function ruleMarks(
  rules: readonly { readonly y: number; readonly label: string }[],
  y: Axis,
  x: Axis,
): Plot.Markish[] {
  const shown = rules.filter((rule) => rule.y >= y.domain[0] && rule.y <= y.domain[1])
  if (shown.length === 0) return []
  return [
    Plot.ruleY(shown, { y: 'y', stroke: 'var(--rule)', strokeWidth: 1.4, strokeDasharray: '2 3' }),
    Plot.text(shown, {
      x: () => x.domain[1],
      y: 'y',
      text: 'label',
      textAnchor: 'end',
      lineAnchor: 'bottom',
      dy: -4,
      dx: -2,
      fill: 'var(--rule)',
      stroke: 'var(--panel)',
      strokeWidth: 4,
    }),
  ]
}
