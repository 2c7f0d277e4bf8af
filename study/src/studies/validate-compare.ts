/**
 * One workload played twice, live and in virtual time: how far its times to the first token, times for each token and
 * throughput lie apart. Pure.
 *
 * Errors are of means, relative to the live run; requests that failed in either run are left out of both and counted.
 */
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

export interface PlayedRuns {
  readonly live: readonly PlayedRequest[]
  readonly virtual: readonly PlayedRequest[]
}

interface Pair {
  readonly live: PlayedRequest
  readonly virtual: PlayedRequest
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
  const pairs = pairsOf(runs)
  const rows = MEASURES.flatMap((measure) => rowsOf(measure, pairs))
  const throughput = {
    live: tokensPerS(pairs.map(({ live }) => live)),
    virtual: tokensPerS(pairs.map(({ virtual }) => virtual)),
  }
  rows.push({ measure: 'throughput', what: 'tokens/s', ...throughput, error: errorOf(throughput) })
  const errors = (measure: string) => Number(rows.find((row) => row.measure === measure)?.error)
  const gpuDecodes = (requests: readonly PlayedRequest[]) =>
    requests.filter(({ decodeDevice }) => decodeDevice.startsWith('gpu')).length
  const moved = (requests: readonly PlayedRequest[]) =>
    requests.filter(({ placements }) => placements > 1).length
  return {
    figures: {
      ttftError: Math.abs(errors(MEASURES[0]?.label ?? '')),
      tpotError: Math.abs(errors(MEASURES[1]?.label ?? '')),
      throughputError: Math.abs(errorOf(throughput)),
      requests: runs.live.length,
      failedLive: runs.live.filter(({ isFinished }) => !isFinished).length,
      failedVirtual: runs.virtual.filter(({ isFinished }) => !isFinished).length,
      movedLive: moved(runs.live),
      movedVirtual: moved(runs.virtual),
      gpuDecodesLive: gpuDecodes(runs.live),
      gpuDecodesVirtual: gpuDecodes(runs.virtual),
    },
    rows,
    tables: [tableOf(rows)],
    plots: [...MEASURES.slice(0, 2).map((measure) => plotOf(measure, pairs))],
  }
}

function pairsOf({ live, virtual }: PlayedRuns): readonly Pair[] {
  const byId = new Map(virtual.map((request) => [request.requestId, request]))
  return live.flatMap((request) => {
    const other = byId.get(request.requestId)
    return other?.isFinished === true && request.isFinished ? [{ live: request, virtual: other }] : []
  })
}

function rowsOf({ label, unit, of }: Measure, pairs: readonly Pair[]): Record<string, Cell>[] {
  const values = (which: keyof Pair) =>
    pairs
      .map((pair) => of(pair[which]))
      .filter((value) => Number.isFinite(value))
      .sort((a, b) => a - b)
  const [live, virtual] = [values('live'), values('virtual')]
  return POINTS.map((point) => {
    const at = (sorted: readonly number[]) =>
      'share' in point ? percentile(sorted, point.share) : mean(sorted)
    const both = { live: at(live), virtual: at(virtual) }
    return { measure: label, what: `${point.label}, ${unit}`, ...both, error: errorOf(both) }
  })
}

function errorOf({ live, virtual }: { readonly live: number; readonly virtual: number }): number {
  return (virtual - live) / live
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

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** Nearest rank. */
function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}

function tableOf(rows: readonly Record<string, Cell>[]): StudyTable {
  return {
    title: 'The same requests, live and in virtual time',
    columns: [
      { key: 'measure', label: '' },
      { key: 'what', label: '' },
      { key: 'live', label: 'live' },
      { key: 'virtual', label: 'virtual' },
      { key: 'error', label: 'error', unit: '%' },
    ],
    rows: rows.map((row) => ({ ...row, error: typeof row.error === 'number' ? row.error * 100 : null })),
    note: 'Error: virtual less live, as a share of live.',
  }
}

function plotOf({ label, unit, of }: Measure, pairs: readonly Pair[]): StudyPlot {
  const points = (which: keyof Pair) =>
    pairs.map((pair) => {
      const y = of(pair[which])
      return { x: pair.live.arrivalMs / 1_000, y: Number.isFinite(y) ? y : null }
    })
  return {
    title: `${label.charAt(0).toUpperCase()}${label.slice(1)} of each request`,
    kind: 'dots',
    x: { label: 'arrival', unit: 's' },
    y: { label, unit },
    series: [
      { name: 'live', points: points('live') },
      { name: 'virtual', points: points('virtual') },
    ],
  }
}
