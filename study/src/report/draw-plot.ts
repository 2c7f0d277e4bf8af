/**
 * Draws one plot as SVG of a given width, with Observable Plot and without a browser. Colours are CSS variables, so that one
 * drawing serves the light and the dark scheme; labels of the axes and the legend are HTML beside it, which wraps.
 */
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import { barMarks } from './draw-bars.js'
import { cellMarks } from './draw-heat.js'
import { lineMarks, ruleMarks } from './draw-lines.js'
import { Markup } from './markup.js'
import { tickTexts } from './number-text.js'
import { type Axis, axisOf } from './plot-axis.js'
import type { DrawnPlot } from './plot-data.js'
import { type CategoryTicks, categoryTicks, characterPx } from './plot-ticks.js'

export interface DrawnSvg {
  readonly svg: Markup
  readonly width: number
  /** Where each x that holds a value lies, in pixels of the drawing, ascending. */
  readonly columns: readonly { readonly x: number; readonly px: number }[]
  /** What the vertical axis shows; undefined for a heat map. */
  readonly yDomain: readonly [number, number] | undefined
}

/** Most columns that can be pointed at. */
const columnsMax = 800
/** Of x that were computed, as ticks. */
const ownTicksMax = 9
const ownTickGapPx = 44
const marginRight = 14
const marginTop = 16
const marginBottomMin = 26

/** @param width in CSS pixels at which texts have their own size */
export function drawPlot(drawn: DrawnPlot, width: number): DrawnSvg {
  const { plot, categories, series } = drawn
  const isHeat = plot.kind === 'heat'
  const yAxis = isHeat ? undefined : valueAxis(drawn)
  const yTexts =
    yAxis === undefined ? series.map(({ name }) => shorten(name, width)) : tickTexts(yAxis.ticks, yAxis.type)
  const marginLeft = 14 + characterPx * Math.max(3, ...yTexts.map((text) => text.length))
  const innerWidth = width - marginLeft - marginRight
  const names = categories === undefined ? undefined : categoryTicks(categories, innerWidth)
  const left = Math.max(marginLeft, names?.leftPx ?? 0)
  const xAxis = positionAxis(drawn, width - left - marginRight)
  const marginBottom = Math.max(marginBottomMin, names?.heightPx ?? 0)
  const height = heightOf(drawn, width) + marginTop + marginBottom
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const svg: {
    readonly outerHTML: string
    scale: (name: 'x') => { apply: (x: number) => number } | undefined
  } = Plot.plot({
    document,
    width,
    height,
    marginLeft: left,
    marginRight,
    marginTop,
    marginBottom,
    style: { fontSize: '12px', fontFamily: 'inherit', background: 'none', overflow: 'visible' },
    x: { type: xAxis.type, domain: [...xAxis.domain], axis: null },
    y:
      yAxis === undefined
        ? { type: 'linear', domain: [series.length - 0.5, -0.5], axis: null }
        : { type: yAxis.type, domain: [...yAxis.domain], axis: null },
    marks: [
      ...(yAxis === undefined ? [] : valueAxisMarks(yAxis.ticks, yTexts)),
      ...positionMarks(xAxis, names),
      ...(isHeat ? cellMarks(drawn, yTexts, innerWidth) : []),
      ...(plot.kind === 'bars' && yAxis ? barMarks(drawn, yAxis.domain) : []),
      ...(isHeat || plot.kind === 'bars' ? [] : lineMarks(drawn)),
      ...(yAxis === undefined ? [] : ruleMarks(plot.rules ?? [], yAxis, xAxis)),
    ],
  })
  const apply = svg.scale('x')?.apply
  return {
    svg: new Markup(svg.outerHTML),
    width,
    yDomain: yAxis?.domain,
    columns:
      apply === undefined ? [] : columnsOf(drawn).map((x) => ({ x, px: Math.round(apply(x) * 10) / 10 })),
  }
}

function heightOf({ plot, series }: DrawnPlot, width: number): number {
  if (plot.kind === 'heat') return Math.min(520, Math.max(90, series.length * 26))
  return width > 500 ? 300 : 220
}

function valueAxis({ plot, series }: DrawnPlot): Axis {
  const values = series.flatMap(({ points }) => points.flatMap(({ y }) => (y === null ? [] : [y])))
  return axisOf({
    values: [...values, ...rulesInReach(plot.rules ?? [], values)],
    scale: plot.y.scale ?? 'linear',
    // Lengths that can be compared are worth some room; bars are nothing else.
    zeroShare: plot.kind === 'bars' ? 0 : 0.4,
    pad: 0.05,
    ticksMax: 6,
  })
}

/** A rule far above everything would flatten what is to be seen. */
function rulesInReach(
  rules: readonly { readonly y: number }[],
  values: readonly number[],
): readonly number[] {
  const max = values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  return rules.map(({ y }) => y).filter((y) => values.length === 0 || y <= Math.max(max * 3, max + 1e-9))
}

function positionAxis({ plot, categories, series }: DrawnPlot, innerWidth: number): Axis {
  if (categories !== undefined) {
    return { type: 'linear', domain: [-0.5, Math.max(0.5, categories.length - 0.5)], ticks: [] }
  }
  const values = series.flatMap(({ points }) => points.map(({ x }) => x))
  const scale = plot.x.scale ?? 'linear'
  const ticksMax = Math.max(3, Math.floor(innerWidth / 70))
  const pad = plot.kind === 'dots' ? 0.03 : 0.015
  const axis = axisOf({ values, scale, zeroShare: 0.75, pad, ticksMax })
  return { ...axis, ticks: ownTicks(values, axis, innerWidth) ?? axis.ticks }
}

/** Where few x were computed, such as powers of two, they are the ticks. */
function ownTicks(values: readonly number[], axis: Axis, widthPx: number): readonly number[] | undefined {
  const distinct = [...new Set(values)].sort((a, b) => a - b)
  if (distinct.length === 0 || distinct.length > ownTicksMax) return undefined
  const place = axis.type === 'log' ? Math.log : (value: number) => value
  const [from, to] = [place(axis.domain[0]), place(axis.domain[1])]
  const px = distinct.map((value) => ((place(value) - from) / (to - from)) * widthPx)
  return px.every((at, index) => index === 0 || at - (px[index - 1] ?? 0) >= ownTickGapPx)
    ? distinct
    : undefined
}

function valueAxisMarks(ticks: readonly number[], texts: readonly string[]): Plot.Markish[] {
  return [
    Plot.gridY([...ticks], { stroke: 'var(--grid)', strokeOpacity: 1 }),
    // Given as texts: Plot leaves out what a format says of some ticks of a logarithmic axis.
    Plot.axisY([...ticks], { text: [...texts], tickSize: 0, label: null, fill: 'var(--muted)' }),
  ]
}

function positionMarks(axis: Axis, names: CategoryTicks | undefined): Plot.Markish[] {
  if (names === undefined) {
    return [
      Plot.axisX([...axis.ticks], {
        text: [...tickTexts(axis.ticks, axis.type)],
        label: null,
        fill: 'var(--muted)',
        stroke: 'var(--line)',
      }),
    ]
  }
  return [
    Plot.axisX(
      names.ticks.map(({ at }) => at),
      {
        text: names.ticks.map(({ text }) => text),
        tickSize: 0,
        tickPadding: 6,
        tickRotate: names.rotate,
        label: null,
        fill: 'var(--muted)',
      },
    ),
  ]
}

function columnsOf({ series }: DrawnPlot): readonly number[] {
  const xs = new Set(series.flatMap(({ points }) => points.filter(({ y }) => y !== null).map(({ x }) => x)))
  const ascending = [...xs].sort((a, b) => a - b)
  const stride = Math.ceil(ascending.length / columnsMax)
  return ascending.filter((_, index) => index % Math.max(1, stride) === 0)
}

/** A row's name takes at most a third of the width. */
function shorten(text: string, width: number): string {
  const charactersMax = Math.floor(width / 3 / characterPx)
  return text.length <= charactersMax ? text : `${text.slice(0, charactersMax - 1)}…`
}
