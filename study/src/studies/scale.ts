/**
 * `kvasir study scale`: how the decisions hold up with the number of devices and requests. What a decision takes with 10 to
 * 1,000 devices; how close it comes to the best that could have been done, in cases small enough to try everything; how
 * fast a large run goes in virtual time; what is left of the goodput when more comes than can be served.
 *
 * Times of decisions and of the run itself are measured on this machine; all others are virtual.
 */

import { loadCatalogue } from '@kvasir/catalogue/load-catalogue'
import { decimals, fixed } from '../rounding.js'
import { mean } from '../statistics.js'
import type { Figures, StudyContext, StudyOptions, StudyPlot, StudyResult, StudyTable } from '../study.js'
import { prefillsPerS } from './scale-plan.js'
import type { ScaleInput, ScaleResult } from './scale-point.js'

export interface ScaleOptions {
  /** Of the large run. */
  readonly requests: number
}

const DEVICES = 64
const DEVICE_COUNTS = [10, 30, 100, 300, 1_000]
/** Of the rate that can be sustained. */
const LOADS = [0.25, 0.5, 0.8, 1, 1.5, 2, 3]
const LARGE_LOAD = 0.8
const TTFT_DEADLINE_MS = 2_000
const QUALITY_CASES = 6
const QUALITY_REQUESTS = 4
const SEARCH_REQUESTS = 10_000
/** Of what the GPUs could prefill were nothing else to do. */
const SEARCH_SHARES = [0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3]
/** A rate is sustained where so many of the requests get their first token in time. */
const SUSTAINED_SHARE = 0.95
const DECIDE_REQUESTS = 5_000
const LOAD_REQUESTS = 40_000
const POINT = new URL('./scale-point.js', import.meta.url)

type Seen = ScaleResult | undefined

export async function studyScale(
  { requests, seed, catalogue }: ScaleOptions & StudyOptions,
  context: StudyContext,
): Promise<StudyResult> {
  const base = { catalogue, seed, devices: DEVICES }
  const all = (inputs: readonly ScaleInput[], what: string): Promise<readonly Seen[]> =>
    context.points<ScaleInput, ScaleResult>(POINT, inputs, what)
  const few = (most: number) => Math.max(1, Math.min(requests, most))
  const couldPerS = prefillsPerS(loadCatalogue([...catalogue]), seed, DEVICES)
  const rates = SEARCH_SHARES.map((share) => share * couldPerS)
  const searched = await all(
    rates.map((rate) => ({
      ...base,
      kind: 'load',
      requests: few(SEARCH_REQUESTS),
      ratePerS: rate,
      ttftDeadlineMs: TTFT_DEADLINE_MS,
    })),
    'what can be sustained',
  )
  const ratePerS = Math.max(
    ...rates.filter((_rate, index) => {
      const one = searched[index]
      return index === 0 || (one && one.good >= SUSTAINED_SHARE * (one.finished + one.failed))
    }),
  )
  context.say(`${DEVICES} devices sustain ${ratePerS.toFixed(1)} requests a second.`)
  const decided = await all(
    DEVICE_COUNTS.map((devices) => ({
      ...base,
      kind: 'decide',
      devices,
      requests: few(DECIDE_REQUESTS),
      ratePerS: LARGE_LOAD * ratePerS * (devices / DEVICES),
    })),
    'decisions',
  )
  const loaded = await all(
    LOADS.map((load) => ({
      ...base,
      kind: 'load',
      requests: few(LOAD_REQUESTS),
      ratePerS: load * ratePerS,
      ttftDeadlineMs: TTFT_DEADLINE_MS,
    })),
    'loads',
  )
  const quality = await all(
    Array.from({ length: QUALITY_CASES }, (_, index) => ({
      ...{
        ...base,
        kind: 'quality',
        devices: 3,
        requests: QUALITY_REQUESTS,
        ratePerS: 0,
        seed: seed * 1_000 + index,
      },
    })),
    'every way to place a few requests',
  )
  const large = { ...base, kind: 'load', requests, ratePerS: LARGE_LOAD * ratePerS } as const
  // Alone, so that what the process takes is what it takes.
  const [run] = await all([large], `${requests} requests`)
  return resultOf({ requests, ratePerS, decided, loaded, quality, run })
}

interface Points {
  readonly requests: number
  readonly ratePerS: number
  readonly decided: readonly Seen[]
  readonly loaded: readonly Seen[]
  readonly quality: readonly Seen[]
  readonly run: Seen
}

function resultOf(points: Points): StudyResult {
  const { run, ratePerS, loaded, decided } = points
  const best = Math.max(...loaded.flatMap((one) => one?.goodputPerS ?? []))
  const at3x = loaded.at(-1)?.goodputPerS ?? Number.NaN
  const ratios = points.quality.flatMap((one) => one?.quality ?? []).map((one) => one.houseMs / one.bestMs)
  const byDevices = (of: (one: ScaleResult) => number) =>
    Object.fromEntries(
      DEVICE_COUNTS.flatMap((count, index) => {
        const one = decided[index]
        return one ? [[`at${count}Devices`, fixed(of(one), 2)]] : []
      }),
    )
  const figures: Figures = {
    requestsPerCpuS: fixed(run ? points.requests / run.cpuS : Number.NaN, 2),
    eventsPerCpuS: fixed(run ? run.events / run.cpuS : Number.NaN, 2),
    eventsHandledPerCpuS: fixed(run ? run.eventsHandled / run.cpuS : Number.NaN, 2),
    cpuS: fixed(run?.cpuS ?? Number.NaN, 2),
    heapMbMax: fixed((run?.heapBytesMax ?? Number.NaN) / 2 ** 20, 2),
    sustainedPerS: fixed(ratePerS, 2),
    goodputAt3x: fixed(at3x / best, 4),
    qualityMean: fixed(mean(ratios), 4),
    qualityWorst: fixed(Math.max(...ratios), 4),
    decideP50Us: byDevices(({ decideP50Us }) => decideP50Us),
    decideP99Us: byDevices(({ decideP99Us }) => decideP99Us),
  }
  return {
    title: `How decisions hold up from 10 to 1,000 devices, and over ${points.requests.toLocaleString('en')} requests`,
    findings: findings(points, { best, at3x, ratios }),
    figures,
    rows: [
      ...DEVICE_COUNTS.map((devices, index) => row('decide', { devices, load: LARGE_LOAD }, decided[index])),
      ...LOADS.map((load, index) => row('load', { devices: DEVICES, load }, loaded[index])),
      row('large', { devices: DEVICES, load: LARGE_LOAD }, run),
    ],
    tables: tables(points),
    plots: plots(points),
    assumptions: [
      'Machines of two A100-80 (vLLM-class preset) and six U280 (FlightLLM) with Llama-3.1-8B; device times, links and memories are modelled from the catalogue.',
      'Lengths are drawn between the published quantiles of the Azure LLM inference trace of 2023 (code); arrivals are random; no prefix is shared.',
      `A rate is sustained where ${100 * SUSTAINED_SHARE} % of the requests get their first token within ${TTFT_DEADLINE_MS / 1_000} s.`,
      `Goodput counts requests whose first token comes within ${TTFT_DEADLINE_MS / 1_000} s; that is also the deadline that admission is told. With more to choose from, more requests can be in time.`,
      'An event is one that either core takes, a message, or a change of links’ shares; steps that run as one count each for itself, with the tokens they give.',
      'Times of decisions and CPU seconds are measured on this machine and differ from run to run.',
    ],
    pointsSkipped: 0,
  }
}

function findings(
  { requests, run, ratePerS, decided }: Points,
  seen: {
    readonly best: number
    readonly at3x: number
    readonly ratios: readonly number[]
  },
): string[] {
  const [least, most] = [decided[0], decided.at(-1)]
  const said: string[] = []
  if (least && most) {
    said.push(
      `A decision takes ${least.decideP50Us.toFixed(0)} µs among ${DEVICE_COUNTS[0]} devices and ${most.decideP50Us.toFixed(0)} µs among ${whole(DEVICE_COUNTS.at(-1) ?? 0)} (99 %: ${least.decideP99Us.toFixed(0)} and ${most.decideP99Us.toFixed(0)} µs).`,
    )
  }
  if (seen.ratios.length > 0) {
    said.push(
      `Against the best of all ways to place ${QUALITY_REQUESTS} requests on three devices, played with all that comes known, requests take ${((mean(seen.ratios) - 1) * 100).toFixed(1)} % longer on average over ${seen.ratios.length} cases.`,
    )
  }
  if (Number.isFinite(seen.at3x)) {
    said.push(
      `At three times the ${ratePerS.toFixed(0)} requests a second that ${DEVICES} devices sustain, goodput is ${((100 * seen.at3x) / seen.best).toFixed(0)} % of its peak.`,
    )
  }
  if (run) {
    said.push(
      `${requests.toLocaleString('en')} requests took ${run.cpuS.toFixed(0)} CPU seconds for ${(run.virtualS / 3_600).toFixed(1)} hours of virtual time: ${whole(requests / run.cpuS)} requests and ${whole(run.events / run.cpuS)} events a CPU second (${whole(run.eventsHandled / run.cpuS)} of them handled one by one), with at most ${(run.heapBytesMax / 2 ** 20).toFixed(0)} MiB of heap.`,
    )
  }
  return said
}

function whole(value: number): string {
  return Math.round(value).toLocaleString('en')
}

function row(
  kind: string,
  at: { readonly devices: number; readonly load: number },
  seen: Seen,
): Readonly<Record<string, string | number | null>> {
  const number = (of: (one: ScaleResult) => number): number | null => cell(seen && of(seen))
  return {
    kind,
    ...at,
    finished: number(({ finished }) => finished),
    failed: number(({ failed }) => failed),
    goodputPerS: number(({ goodputPerS }) => goodputPerS),
    ttftP50Ms: number(({ ttftP50Ms }) => ttftP50Ms),
    ttftP99Ms: number(({ ttftP99Ms }) => ttftP99Ms),
    tpotMeanMs: number(({ tpotMeanMs }) => tpotMeanMs),
    events: number(({ events }) => events),
    virtualS: number(({ virtualS }) => virtualS),
    decideP50Us: number(({ decideP50Us }) => decideP50Us),
    decideP99Us: number(({ decideP99Us }) => decideP99Us),
  }
}

function tables({ decided, loaded, quality }: Points): StudyTable[] {
  return [
    {
      title: 'Decisions',
      columns: [
        { key: 'devices', label: 'devices' },
        { key: 'p50', label: 'half within', unit: 'µs' },
        { key: 'p99', label: '99 % within', unit: 'µs' },
      ],
      rows: DEVICE_COUNTS.map((devices, index) => ({
        devices,
        p50: cell(decided[index]?.decideP50Us),
        p99: cell(decided[index]?.decideP99Us),
      })),
      note: 'From a request to what is done about it, in the coordinator’s core; measured on this machine.',
    },
    {
      title: 'Load',
      columns: [
        { key: 'load', label: 'load', unit: 'of sustained' },
        { key: 'goodput', label: 'goodput', unit: 'requests/s' },
        { key: 'finished', label: 'finished' },
        { key: 'refused', label: 'refused' },
        { key: 'ttft50', label: 'TTFT p50', unit: 'ms' },
        { key: 'ttft99', label: 'TTFT p99', unit: 'ms' },
        { key: 'tpot', label: 'TPOT', unit: 'ms' },
      ],
      rows: LOADS.map((load, index) => ({
        load,
        goodput: cell(loaded[index]?.goodputPerS),
        finished: cell(loaded[index]?.finished),
        refused: cell(loaded[index]?.failed),
        ttft50: cell(loaded[index]?.ttftP50Ms),
        ttft99: cell(loaded[index]?.ttftP99Ms),
        tpot: cell(loaded[index]?.tpotMeanMs),
      })),
    },
    {
      title: 'Against every way to place',
      columns: [
        { key: 'at', label: 'case' },
        { key: 'house', label: 'as placed', unit: 'ms' },
        { key: 'best', label: 'best', unit: 'ms' },
        { key: 'ratio', label: 'ratio' },
        { key: 'tried', label: 'ways tried' },
      ],
      rows: quality.map((one, index) => ({
        at: index + 1,
        house: cell(one?.quality?.houseMs),
        best: cell(one?.quality?.bestMs),
        ratio: one?.quality ? fixed(one.quality.houseMs / one.quality.bestMs, 3) : null,
        tried: cell(one?.quality?.placementsTried),
      })),
      note: 'Mean time from arrival to the last token of four requests on one A100 and two U280.',
    },
  ]
}

function plots({ decided, loaded, ratePerS }: Points): StudyPlot[] {
  const line = (name: string, of: (one: ScaleResult) => number) => ({
    name,
    points: DEVICE_COUNTS.map((x, index) => ({ x, y: cell(decided[index] && of(decided[index])) })),
  })
  return [
    {
      title: 'What a decision takes',
      kind: 'line',
      x: { label: 'devices', scale: 'log' },
      y: { label: 'time of a decision', unit: 'µs', scale: 'log' },
      series: [
        line('half within', ({ decideP50Us }) => decideP50Us),
        line('99 % within', ({ decideP99Us }) => decideP99Us),
      ],
    },
    {
      title: 'Goodput under load',
      kind: 'line',
      x: { label: 'load', unit: 'of what is sustained' },
      y: { label: 'goodput', unit: 'requests/s' },
      series: [
        {
          name: 'goodput',
          points: LOADS.map((x, index) => ({ x, y: cell(loaded[index]?.goodputPerS) })),
        },
        {
          name: 'requests that come',
          points: LOADS.map((x) => ({ x, y: fixed(x * ratePerS, 2) })),
          isReference: true,
        },
      ],
    },
  ]
}

function cell(value: number | undefined): number | null {
  return decimals(value ?? Number.NaN, 2)
}
