/**
 * When requests come: as a trace says, or drawn with a mean rate. Poisson arrivals have gaps whose variation (standard deviation over
 * mean) is 1, gamma ones any other: above 1 they come in bursts.
 */
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64'
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus'

export const ARRIVAL_NAMES = ['trace', 'poisson', 'gamma', 'constant'] as const
export type ArrivalName = (typeof ARRIVAL_NAMES)[number]

export interface ArrivalModel {
  readonly name: Exclude<ArrivalName, 'trace'>
  readonly ratePerS: number
  /** Of gamma: standard deviation of the gaps over their mean. */
  readonly variation: number
}

/** Gaps between one request and the next, milliseconds, without end. */
export function* gapsMs({ name, ratePerS, variation }: ArrivalModel, seed: number): Generator<number, never> {
  const generator = xoroshiro128plus(seed)
  const draw = () => uniformFloat64(generator)
  const meanMs = 1_000 / ratePerS
  const shape = 1 / variation ** 2
  for (;;) {
    if (name === 'constant') yield meanMs
    else if (name === 'poisson') yield -Math.log1p(-draw()) * meanMs
    else yield (gamma(shape, draw) * meanMs) / shape
  }
}

/** Marsaglia and Tsang (2000): a gamma variate of mean `shape` and scale 1. */
function gamma(shape: number, draw: () => number): number {
  if (shape < 1) return gamma(shape + 1, draw) * (1 - draw()) ** (1 / shape)
  const d = shape - 1 / 3
  const c = 1 / Math.sqrt(9 * d)
  for (;;) {
    const x = normal(draw)
    const v = (1 + c * x) ** 3
    if (v <= 0) continue
    if (Math.log(1 - draw()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v
  }
}

/** Box and Muller. */
function normal(draw: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw())
}
