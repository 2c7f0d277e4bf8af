/**
 * A plot as it stands in the report: title, legend, drawing for wide and for narrow screens, and the values that the page
 * shows where one points.
 */
import type { StudyPlot } from '../study.js'
import { type HeatRange, heatRange } from './draw-heat.js'
import { type DrawnSvg, drawPlot } from './draw-plot.js'
import { html, jsonMarkup, Markup } from './markup.js'
import { numberText } from './number-text.js'
import type { SeriesStyle } from './palette.js'
import { type DrawnPlot, type DrawnSeries, drawnPlot } from './plot-data.js'

const wideWidth = 860
const narrowWidth = 380

export function plotFigure(plot: StudyPlot): Markup {
  const drawn = drawnPlot(plot)
  const isEmpty = drawn.series.every(({ points }) => points.every(({ y }) => y === null))
  return html`<figure class="plot">
<figcaption>${plot.title}</figcaption>
${isEmpty ? html`<p class="empty">No values: nothing of it was computed.</p>` : body(drawn)}
${plot.note === undefined ? '' : html`<p class="note">${plot.note}</p>`}
${drawn.isThinned ? html`<p class="note">Drawn with fewer points than there are; results.json has them all.</p>` : ''}
</figure>`
}

function body(drawn: DrawnPlot): Markup {
  const { plot } = drawn
  const range = plot.kind === 'heat' ? heatRange(drawn) : undefined
  const wide = drawPlot(drawn, wideWidth)
  const legend =
    range === undefined ? seriesLegend(drawn, wide.yDomain) : heatLegend(range, axisLabel(plot.y))
  const yLabel = range === undefined ? html`<p class="axis">${`↑ ${axisLabel(plot.y)}`}</p>` : ''
  return html`${legend}${yLabel}
${drawing(drawn, wide, 'wide')}
${drawing(drawn, drawPlot(drawn, narrowWidth), 'narrow')}
<p class="axis x">${`${drawn.categories === undefined ? axisLabel(plot.x) : labelOf(plot.x)} →`}</p>`
}

/** `TTFT, p95 (ms)`. */
function labelOf({ label, unit }: StudyPlot['x']): string {
  return unit === undefined || unit === '' ? label : `${label} (${unit})`
}

/** A reader who takes a logarithmic axis for a linear one reads it wrongly. */
function axisLabel(axis: StudyPlot['x']): string {
  return axis.scale === 'log' ? `${labelOf(axis)}, logarithmic` : labelOf(axis)
}

function drawing(drawn: DrawnPlot, { svg, width, columns }: DrawnSvg, size: 'wide' | 'narrow'): Markup {
  const { plot, categories } = drawn
  const values = drawn.series.map(({ points }) => new Map(points.map(({ x, y }) => [x, y])))
  const hover = {
    width,
    unit: plot.y.unit ?? '',
    x: labelOf(plot.x),
    // A heat map's colours are its values.
    series: drawn.series.map(({ name, style }) => ({
      name,
      colour: plot.kind === 'heat' ? null : style.colour,
    })),
    columns: columns.map(({ x, px }) => ({
      px,
      at: categories?.[x] ?? numberText(x),
      values: values.map((byX) => textOf(byX.get(x))),
    })),
  }
  const summary = `${plot.title}: ${labelOf(plot.y)} by ${labelOf(plot.x)}`
  return html`<div class="drawing ${size}" role="img" aria-label="${summary}">${svg}<script type="application/json">${jsonMarkup(hover)}</script></div>`
}

function valueText(value: number, { y: { unit = '' } }: StudyPlot): string {
  return unit === '' ? numberText(value) : `${numberText(value)} ${unit}`
}

function textOf(value: number | null | undefined): string | null {
  return value === undefined || value === null ? null : numberText(value)
}

function seriesLegend({ plot, series }: DrawnPlot, yDomain: DrawnSvg['yDomain']): Markup {
  // A single series that is what the axis says needs no key.
  const isSaid = series.length === 1 && series[0]?.name.toLowerCase() === plot.y.label.toLowerCase()
  const items = (isSaid ? [] : series).map((each) => html`<li>${swatch(each, plot.kind)}${each.name}</li>`)
  const [low, high] = yDomain ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]
  const rules = (plot.rules ?? []).map(({ label, y }) => {
    const value = label.includes(numberText(y)) ? '' : ` (${valueText(y, plot)})`
    return html`<li>${ruleSwatch}${label}${value}${y < low || y > high ? ', beyond the axis' : ''}</li>`
  })
  if (items.length + rules.length === 0) return html``
  return html`<ul class="legend">${[...items, ...rules]}</ul>`
}

const ruleSwatch = new Markup(
  '<svg width="26" height="12" aria-hidden="true"><path d="M1 6H25" stroke="var(--rule)" stroke-width="1.4" stroke-dasharray="2 3"/></svg>',
)

/** Paths of about 8 px around (13, 6), as Plot draws its symbols. */
const symbolPaths: Readonly<Record<SeriesStyle['symbol'], string>> = {
  circle: 'M9.5 6a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z',
  square: 'M10 3h6v6h-6z',
  triangle: 'M13 1.8L17 8.8H9z',
  diamond: 'M13 1.5L16 6 13 10.500 10 6z',
  cross: 'M12 2h2v3h3v2h-3v3h-2v-3h-3v-2h3z',
  star: 'M13 1.500l1.200 3 3.200.2-2.500 2 .8 3.100-2.700-1.700-2.700 1.700.8-3.100-2.500-2 3.200-.2z',
  wye: 'M12 1.500h2v3.600l3 1.800-1 1.700-3-1.700-3 1.700-1-1.700 3-1.800z',
}

function swatch({ style, points }: DrawnSeries, kind: StudyPlot['kind']): Markup {
  const { colour, dash, isReference, symbol } = style
  const fill = isReference ? 'var(--panel)' : colour
  const dashes = dash === undefined ? '' : html` stroke-dasharray="${dash}"`
  if (kind === 'bars') {
    return html`<svg width="18" height="12" aria-hidden="true"><rect x="2" y="1" width="14" height="10" fill="${fill}" stroke="${colour}" stroke-width="1.4"${isReference ? new Markup(' stroke-dasharray="4 2"') : ''}/></svg>`
  }
  const line = kind === 'dots' ? '' : html`<path d="M1 6H25" stroke="${colour}" stroke-width="2"${dashes}/>`
  const isMarked = kind === 'dots' || points.length <= 30
  const mark = isMarked
    ? html`<path d="${symbolPaths[symbol]}" fill="${fill}" stroke="${colour}" stroke-width="1.4"/>`
    : ''
  return html`<svg width="26" height="12" aria-hidden="true">${line}${mark}</svg>`
}

function heatLegend({ min, max }: HeatRange, label: string): Markup {
  return html`<p class="heat-legend"><span>${label}</span><span>${numberText(min)}</span><i></i><span>${numberText(max)}</span></p>`
}
