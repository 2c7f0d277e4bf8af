/**
 * A plot's series as they are drawn: every x a position on a number line, categories at 0, 1, 2, …; what cannot be drawn is
 * a gap; long series thinned to what a screen can show.
 */
import type { StudyPlot } from '../study.js'
import { numberText } from './number-text.js'
import { type SeriesStyle, seriesStyles } from './palette.js'

/** Enough for each column of pixels of the widest plot to keep its lowest and its highest value. */
const pointsMax = 1_600

/** No quantity of a study is larger, and all arithmetic on axes stays finite. */
const sizeMax = 1e60

/** Of the gap to the next number, that rounding may move a category's. */
const roundedShare = 0.1
const decimalsMax = 12

export interface DrawnPoint {
  readonly x: number
  /** null: a gap. */
  readonly y: number | null
}

export interface DrawnSeries {
  readonly name: string
  readonly style: SeriesStyle
  readonly points: readonly DrawnPoint[]
}

export interface DrawnPlot {
  readonly plot: StudyPlot
  /** What stands at 0, 1, 2, …; undefined where x is a number. */
  readonly categories: readonly string[] | undefined
  readonly series: readonly DrawnSeries[]
  /** Whether any series lost points to thinning. */
  readonly isThinned: boolean
}

export function drawnPlot(plot: StudyPlot): DrawnPlot {
  const styles = seriesStyles(plot.series)
  const positions = positionsOf(plot)
  const isLogX = plot.x.scale === 'log' && positions === undefined
  const isLogY = plot.y.scale === 'log'
  let isThinned = false
  const series = plot.series.flatMap(({ name, points }, index) => {
    const style = styles[index]
    if (style === undefined) return []
    const placed = points
      .map(({ x, y }) => ({
        x: positions?.get(x) ?? drawable(Number(x), isLogX),
        y: y === null ? null : drawable(y, isLogY),
      }))
      .filter((point): point is DrawnPoint => point.x !== null)
    const kept = plot.kind === 'dots' ? strided(placed) : thinned(placed)
    isThinned ||= kept.length < placed.length
    return [{ name, style, points: kept }]
  })
  const categories = positions === undefined ? undefined : categoryTexts([...positions.keys()])
  return { plot, categories, series, isThinned }
}

/** null for what has no place on an axis: no number, or too large to compute with; what is next to nothing is 0. */
function drawable(value: number, isLog: boolean): number | null {
  const near = Math.abs(value) < 1 / sizeMax ? 0 : value
  return Math.abs(near) <= sizeMax && !(isLog && near <= 0) ? near : null
}

/** Where each x stands: bars and heat have categories always, others where an x is a text. */
function positionsOf({ kind, series }: StudyPlot): ReadonlyMap<string | number, number> | undefined {
  const xs = new Set(series.flatMap(({ points }) => points.map(({ x }) => x)))
  const ordered = [...xs]
  const isNumeric = ordered.every((x) => typeof x === 'number')
  if (isNumeric && kind !== 'bars' && kind !== 'heat') return undefined
  if (isNumeric) ordered.sort((a, b) => Number(a) - Number(b))
  return new Map(ordered.map((x, index) => [x, index]))
}

function categoryTexts(xs: readonly (number | string)[]): readonly string[] {
  const decimals = decimalsOf(xs.filter((x) => typeof x === 'number'))
  return xs.map((x) => (typeof x === 'number' ? numberText(Number(x.toFixed(decimals))) : x))
}

/** As few as tell ascending numbers apart, such as the windows of a time that 11.8064 is the second of. */
function decimalsOf(numbers: readonly number[]): number {
  const gaps = numbers.flatMap((number, index) => (index === 0 ? [] : [number - (numbers[index - 1] ?? 0)]))
  const room = gaps.length === 0 ? 0 : Math.min(...gaps) * roundedShare
  for (let decimals = 0; decimals < decimalsMax; decimals += 1) {
    if (numbers.every((number) => Math.abs(Number(number.toFixed(decimals)) - number) <= room))
      return decimals
  }
  return decimalsMax
}

/** The lowest and the highest value of each of many equal stretches, and every gap. */
function thinned(points: readonly DrawnPoint[]): readonly DrawnPoint[] {
  if (points.length <= pointsMax) return points
  const kept: DrawnPoint[] = []
  const stretch = Math.ceil((points.length * 2) / pointsMax)
  for (let from = 0; from < points.length; from += stretch) {
    const group = points.slice(from, from + stretch)
    const present = group.filter(({ y }) => y !== null)
    const byValue = present.toSorted((a, b) => (a.y ?? 0) - (b.y ?? 0))
    const ends = new Set([byValue.at(0), byValue.at(-1), group.find(({ y }) => y === null)])
    kept.push(...group.filter((point) => ends.has(point)))
  }
  return kept
}

function strided(points: readonly DrawnPoint[]): readonly DrawnPoint[] {
  const stride = Math.ceil(points.length / pointsMax)
  return stride <= 1 ? points : points.filter((_, index) => index % stride === 0)
}
