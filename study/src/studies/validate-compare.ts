/**
 * One workload played live and in virtual time: how far its times to the first token, times for each token and
 * throughput lie apart. Pure.
 *
 * Which of two moments that nearly meet comes first decides what is placed where for a while after. So virtual time is
 * played several times, with messages a little faster or slower, and its figures are the mean of those of all plays.
 *
 * Errors are of means, relative to the live run; requests that failed in any play are left out of all and counted.
 */
import { mean, percentile } from '../statistics.js'
import type { Cell, StudyPlot, StudyResult, StudyTable } from '../study.js'

/** Times are milliseconds since the run began. */
export interface PlayedRequest {
  readonly requestId: string
  readonly arrivalMs: number
  readonly promptTokens: number
  readonly tokens: number
  readonly firstTokenMs: number
  readonly lastTokenMs: number
  readonly isFinished: boolean
  /** Why it failed; '' where it did not. */
  readonly why: string
  readonly prefillDevice: string
  /** Of the last placement. */
  readonly decodeDevice: string
  readonly placements: number
}

type Play = readonly PlayedRequest[]

export interface PlayedRuns {
  readonly live: Play
  /** At least one. */
  readonly virtual: readonly Play[]
}

interface Measure {
  readonly key: string
  readonly label: string
  readonly unit: string
  readonly of: (request: PlayedRequest) => number
}

const MEASURES: readonly Measure[] = [
  {
    key: 'ttft',
    label: 'time to first token',
    unit: 'ms',
    of: (request) => request.firstTokenMs - request.arrivalMs,
  },
  { key: 'tpot', label: 'time for each token', unit: 'ms', of: tpotMs },
  {
    key: 'latency',
    label: 'whole request',
    unit: 'ms',
    of: (request) => request.lastTokenMs - request.arrivalMs,
  },
]
const POINTS = [
  { key: 'mean', label: 'mean' },
  { key: 'p50', label: 'p50', share: 0.5 },
  { key: 'p90', label: 'p90', share: 0.9 },
] as const

type Row = Record<string, Cell>

export interface Comparison extends Pick<StudyResult, 'rows' | 'tables' | 'plots'> {
  /** Errors without their sign. */
  readonly figures: {
    readonly ttftError: number
    readonly tpotError: number
    readonly throughputError: number
    readonly requests: number
    readonly failedLive: number
    readonly failedVirtual: number
    /** Placed more than once. */
    readonly movedLive: number
    readonly movedVirtual: number
    /** Requests that the GPU decoded itself. */
    readonly gpuDecodesLive: number
    readonly gpuDecodesVirtual: number
  }
}

export function compareRuns(runs: PlayedRuns): Comparison {
  const isWhole = endedInAll([runs.live, ...runs.virtual])
  const live = runs.live.filter(isWhole)
  const virtual = runs.virtual.map((play) => play.filter(isWhole))
  const rows = MEASURES.flatMap((measure) => rowsOf(measure, live, virtual))
  const throughput = rowOf('throughput', 'tokens/s', live, virtual, tokensPerS)
  const errors = (measure: string) => Number(rows.find((row) => row.measure === measure)?.error)
  const counted = (is: (request: PlayedRequest) => boolean) => {
    const counts = runs.virtual.map((play) => play.filter(is).length)
    return { live: runs.live.filter(is).length, virtual: mean(counts) }
  }
  const failed = counted(({ isFinished }) => !isFinished)
  const moved = counted(({ placements }) => placements > 1)
  const gpuDecodes = counted(({ decodeDevice }) => decodeDevice.startsWith('gpu'))
  return {
    figures: {
      ttftError: Math.abs(errors(MEASURES[0]?.label ?? '')),
      tpotError: Math.abs(errors(MEASURES[1]?.label ?? '')),
      throughputError: Math.abs(Number(throughput.error)),
      requests: runs.live.length,
      ...{ failedLive: failed.live, failedVirtual: failed.virtual },
      ...{ movedLive: moved.live, movedVirtual: moved.virtual },
      ...{ gpuDecodesLive: gpuDecodes.live, gpuDecodesVirtual: gpuDecodes.virtual },
    },
    rows: [...rows, throughput],
    tables: [tableOf([...rows, throughput], virtual.length)],
    plots: MEASURES.slice(0, 2).map((measure) => plotOf(measure, live, virtual[0] ?? [])),
  }
}

function endedInAll(plays: readonly Play[]): (request: PlayedRequest) => boolean {
  const ended = plays.map(
    (play) => new Set(play.flatMap(({ requestId, isFinished }) => (isFinished ? [requestId] : []))),
  )
  return ({ requestId }) => ended.every((ids) => ids.has(requestId))
}

function rowsOf({ label, unit, of }: Measure, live: Play, virtual: readonly Play[]): Row[] {
  return POINTS.map((point) => {
    const at = (play: Play) => {
      const values = play.map(of).filter((value) => Number.isFinite(value))
      return 'share' in point ? percentile(values, point.share) : mean(values)
    }
    return rowOf(label, `${point.label}, ${unit}`, live, virtual, at)
  })
}

function rowOf(
  measure: string,
  what: string,
  livePlay: Play,
  virtualPlays: readonly Play[],
  at: (play: Play) => number,
): Row {
  const values = virtualPlays.map(at)
  const [live, virtual] = [at(livePlay), mean(values)]
  const [virtualLeast, virtualMost] = [Math.min(...values), Math.max(...values)]
  return { measure, what, live, virtual, error: (virtual - live) / live, virtualLeast, virtualMost }
}

function tpotMs({ firstTokenMs, lastTokenMs, tokens }: PlayedRequest): number {
  return tokens > 1 ? (lastTokenMs - firstTokenMs) / (tokens - 1) : Number.NaN
}

function tokensPerS(requests: readonly PlayedRequest[]): number {
  const tokens = requests.reduce((sum, request) => sum + request.tokens, 0)
  const begin = Math.min(...requests.map(({ arrivalMs }) => arrivalMs))
  const end = Math.max(...requests.map(({ lastTokenMs }) => lastTokenMs))
  return (tokens / (end - begin)) * 1_000
}

function tableOf(rows: readonly Row[], plays: number): StudyTable {
  return {
    title: 'The same requests, live and in virtual time',
    columns: [
      { key: 'measure', label: '' },
      { key: 'what', label: '' },
      { key: 'live', label: 'live' },
      { key: 'virtual', label: 'virtual' },
      { key: 'error', label: 'error', unit: '%' },
      { key: 'virtualLeast', label: 'virtual, least' },
      { key: 'virtualMost', label: 'virtual, most' },
    ],
    rows: rows.map((row) => ({ ...row, error: Number(row.error) * 100 })),
    note: `Virtual: mean of ${plays} plays, in which messages take a little less or more time. Error: virtual less live, as a share of live.`,
  }
}

function plotOf({ label, unit, of }: Measure, live: Play, virtual: Play): StudyPlot {
  const points = (play: Play) =>
    play.map((request) => {
      const y = of(request)
      return { x: request.arrivalMs / 1_000, y: Number.isFinite(y) ? y : null }
    })
  return {
    title: `${label.charAt(0).toUpperCase()}${label.slice(1)} of each request`,
    kind: 'dots',
    x: { label: 'arrival', unit: 's' },
    y: { label, unit },
    series: [
      { name: 'live', points: points(live) },
      { name: 'virtual', points: points(virtual) },
    ],
  }
}
