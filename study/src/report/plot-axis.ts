/** Scales of a plot's axes: which range they show and where their ticks are. */
import { ticks as linearTicks } from 'd3-array'

export interface Axis {
  readonly type: 'linear' | 'log'
  readonly domain: readonly [number, number]
  readonly ticks: readonly number[]
}

export interface AxisInput {
  readonly values: readonly number[]
  readonly scale: 'linear' | 'log'
  /** How much of the range from 0 must hold values for it to begin at 0; 0: it always does. */
  readonly zeroShare: number
  /** Room at both ends, as a share of the range. */
  readonly pad: number
  readonly ticksMax: number
}

/** A logarithmic axis shows what is above 0; without any such value the axis is linear. */
export function axisOf({ values, scale, zeroShare, pad, ticksMax }: AxisInput): Axis {
  const positive = values.filter((value) => value > 0)
  if (scale === 'log' && positive.length > 0) return logAxis(positive, pad, ticksMax)
  return linearAxis(values, zeroShare, pad, ticksMax)
}

function linearAxis(values: readonly number[], zeroShare: number, pad: number, ticksMax: number): Axis {
  let min = values.length === 0 ? 0 : least(values)
  let max = values.length === 0 ? 1 : most(values)
  const showsZero = min >= 0 && min <= max * (1 - zeroShare)
  if (showsZero) min = 0
  // Bars of what is less than nothing.
  if (zeroShare === 0) max = Math.max(0, max)
  if (min === max) {
    const around = min === 0 ? 1 : Math.abs(min) / 2
    if (!showsZero) min -= around
    max += around
  }
  const room = (max - min) * pad
  const domain: [number, number] = [min === 0 ? 0 : min - room, max === 0 ? 0 : max + room]
  return { type: 'linear', domain, ticks: linearTicks(domain[0], domain[1], ticksMax) }
}

/** Powers of ten, as many as there is room for; between them 2 and 5, or more, where there are few. */
function logAxis(values: readonly number[], pad: number, ticksMax: number): Axis {
  let low = Math.log10(least(values))
  let high = Math.log10(most(values))
  if (high - low < 0.1) {
    low -= 0.15
    high += 0.15
  }
  const room = (high - low) * pad
  const domain: [number, number] = [10 ** (low - room), 10 ** (high + room)]
  for (const steps of [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = decadeTicks(domain, steps, 1)
    if (ticks.length <= ticksMax && ticks.length >= 2) return { type: 'log', domain, ticks }
  }
  const every = Math.ceil((high - low) / ticksMax)
  const ticks = decadeTicks(domain, [1], Math.max(1, every))
  return { type: 'log', domain, ticks: ticks.length >= 2 ? ticks : linearTicks(...domain, ticksMax) }
}

function decadeTicks(
  [min, max]: readonly [number, number],
  steps: readonly number[],
  every: number,
): number[] {
  const ticks: number[] = []
  for (let decade = Math.floor(Math.log10(min)); decade <= Math.log10(max); decade += 1) {
    if (decade % every !== 0) continue
    // Not 10 ** -3 · 2, which is 0.002 and a little.
    for (const step of steps) ticks.push(Number(`${step}e${decade}`))
  }
  return ticks.filter((tick) => tick >= min && tick <= max)
}

/** Not Math.min(...values): a long list would overflow the stack. */
function least(values: readonly number[]): number {
  return values.reduce((a, b) => Math.min(a, b))
}

function most(values: readonly number[]): number {
  return values.reduce((a, b) => Math.max(a, b))
}
