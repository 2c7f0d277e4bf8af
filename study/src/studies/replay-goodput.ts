/**
 * Goodput as DistServe has it: the largest rate at which a share of the requests meets the SLO, by simulation and binary search.
 * The rate of a trace is raised by compressing its times.
 */
import type { Workload } from '../workload/workload.js'
import type { Play, ReplayInput, ReplayRun } from './replay-point.js'

export interface Goodput {
  readonly policy: string
  /** Times as fast as asked, that does; 0 where none did. */
  readonly speed: number
  readonly tried: number
}

interface Bracket {
  readonly policy: string
  low: number
  high: number
  tried: number
}

/** Of the rate asked for. */
const SPEED_MIN = 1 / 64
const SPEED_MAX = 64
/** The answer is known this well. */
const RATIO = 1.06

export async function goodputs(
  base: Omit<ReplayInput, 'policy'>,
  policies: readonly string[],
  attain: number,
  play: Play,
): Promise<readonly Goodput[]> {
  const brackets = policies.map((policy): Bracket => {
    return { policy, low: 0, high: Number.POSITIVE_INFINITY, tried: 0 }
  })
  for (;;) {
    const open = brackets.flatMap((bracket) => {
      const speed = nextSpeed(bracket)
      return speed === undefined ? [] : [{ bracket, speed }]
    })
    if (open.length === 0) break
    const inputs = open.map(({ bracket, speed }): ReplayInput => {
      const windowMs = Math.max(1, base.windowMs / speed)
      const workload = faster(base.workload, speed)
      return { ...base, policy: bracket.policy, workload, windowMs, attainMin: attain }
    })
    const runs = await play(inputs, 'goodput')
    if (runs.includes(undefined)) break
    open.forEach(({ bracket, speed }, index) => {
      const run = runs[index]
      bracket.tried += 1
      if (run && meets(run, attain)) bracket.low = speed
      else bracket.high = speed
    })
  }
  return brackets.map(({ policy, low, tried }) => ({ policy, speed: low, tried }))
}

export function meets(run: ReplayRun, attain: number): boolean {
  return !run.isStopped && run.attained >= attain * run.arrived
}

function nextSpeed({ low, high }: Bracket): number | undefined {
  if (low === 0 && high === Number.POSITIVE_INFINITY) return 1
  if (low === 0) return high > SPEED_MIN ? high / 2 : undefined
  if (high === Number.POSITIVE_INFINITY) return low < SPEED_MAX ? low * 2 : undefined
  return high / low > RATIO ? Math.sqrt(low * high) : undefined
}

function faster(workload: Workload, by: number): Workload {
  const { arrivals } = workload
  if (arrivals) return { ...workload, arrivals: { ...arrivals, ratePerS: arrivals.ratePerS * by } }
  return workload.kind === 'trace' ? { ...workload, speed: workload.speed * by } : workload
}
