/** The plots of a replay. */
import type { ClusterPlan } from '../cluster/cluster-plan.js'
import { finite, significant } from '../rounding.js'
import type { PlotSeries, StudyPlot } from '../study.js'
import type { ReplayOptions } from './replay.js'
import type { WindowMeasure } from './replay-meter.js'
import type { ReplayRun } from './replay-point.js'

type Done = readonly { readonly policy: string; readonly run: ReplayRun }[]

/** More rows of a heat map are not told apart; types of devices are shown instead. */
const HEAT_ROWS_MAX = 40
const TIME = { label: 'time of arrival', unit: 's' }

export function replayPlots(done: Done, plan: ClusterPlan, options: ReplayOptions): StudyPlot[] {
  const [first] = done
  if (!first) return []
  const many = done.length > 1
  const overTime = (name: string, run: ReplayRun, of: (window: WindowMeasure) => number): PlotSeries => ({
    name,
    points: run.windows.map((window) => ({ x: round(window.fromS), y: finite(round(of(window))) })),
  })
  const perPolicy = (of: (window: WindowMeasure) => number) =>
    done.map(({ policy, run }) => overTime(policy, run, of))
  return [
    {
      title: many ? 'Time to the first token, half within' : `Time to the first token, ${first.policy}`,
      kind: 'line',
      x: TIME,
      y: { label: 'TTFT', unit: 'ms', scale: 'log' },
      series: many
        ? perPolicy(({ ttftP50Ms }) => ttftP50Ms)
        : [
            overTime('half within', first.run, ({ ttftP50Ms }) => ttftP50Ms),
            overTime('99 % within', first.run, ({ ttftP99Ms }) => ttftP99Ms),
          ],
      rules: [{ y: options.sloTtft, label: 'SLO' }],
    },
    {
      title: 'Time a token, half within',
      kind: 'line',
      x: TIME,
      y: { label: 'TPOT', unit: 'ms', scale: 'log' },
      series: perPolicy(({ tpotP50Ms }) => tpotP50Ms),
      rules: [{ y: options.sloTpot, label: 'SLO' }],
    },
    {
      title: 'Requests within the SLO',
      kind: 'line',
      x: TIME,
      y: { label: 'share of those that came', unit: '%' },
      series: perPolicy(({ attained, arrived }) => (100 * attained) / arrived),
      rules: [{ y: 100 * options.attain, label: 'wanted' }],
    },
    {
      title: 'How long the first token takes',
      kind: 'line',
      x: { label: 'TTFT', unit: 'ms', scale: 'log' },
      y: { label: 'requests that have it by then', unit: '%' },
      series: done.map(({ policy, run }) => ({
        name: policy,
        points: run.ttftCurve
          .filter(({ ms }) => Number.isFinite(ms) && ms > 0)
          .map(({ share, ms }) => ({ x: round(ms), y: round(100 * share) })),
      })),
    },
    {
      title: 'Prompt tokens that were cached',
      kind: 'line',
      x: TIME,
      y: { label: 'share of the prompt tokens', unit: '%' },
      series: perPolicy(({ cachedTokens, promptTokens }) => (100 * cachedTokens) / promptTokens),
    },
    {
      title: 'Requests in the cluster',
      kind: 'line',
      x: { label: 'time', unit: 's' },
      y: { label: 'requests' },
      series: many
        ? perPolicy(({ queued }) => queued).map((series) => ({ ...series, name: `${series.name}, waiting` }))
        : [
            overTime('waiting', first.run, ({ queued }) => queued),
            overTime('being served', first.run, ({ active }) => active),
          ],
    },
    {
      title: `Devices at work, ${first.policy}`,
      kind: 'heat',
      x: { label: 'time', unit: 's' },
      y: { label: 'busy', unit: '%' },
      series: busySeries(first.run, plan),
      note: 'Ten looks at every device in each window of time.',
    },
    {
      title: `What devices spend their time on, ${first.policy}`,
      kind: 'bars',
      x: { label: 'device' },
      y: { label: 'mean share of the time', unit: '%' },
      series: [
        { name: 'steps with prefill', points: byType(first.run, plan, ({ prefillMs }) => prefillMs) },
        { name: 'steps of decoding', points: byType(first.run, plan, ({ decodeMs }) => decodeMs) },
      ],
    },
  ]
}

function busySeries(run: ReplayRun, plan: ClusterPlan): PlotSeries[] {
  const devices = plan.machines.flatMap((machine) => machine.devices)
  const isMany = devices.length > HEAT_ROWS_MAX
  const groups = new Map<string, string[]>()
  for (const { deviceId, model } of devices) {
    const name = isMany ? model.device.id : deviceId
    groups.set(name, [...(groups.get(name) ?? []), deviceId])
  }
  return [...groups].map(([name, ids]) => ({
    name,
    points: run.windows.map(({ fromS }, window) => {
      const shares = ids.flatMap((id) => run.busy[id]?.[window] ?? [])
      const sum = shares.reduce((all, share) => all + share, 0)
      return { x: round(fromS), y: finite(round((100 * sum) / shares.length)) }
    }),
  }))
}

function byType(
  run: ReplayRun,
  plan: ClusterPlan,
  of: (used: ReplayRun['devices'][number]) => number,
): PlotSeries['points'] {
  const types = new Map<string, string[]>()
  for (const { deviceId, model } of plan.machines.flatMap((machine) => machine.devices)) {
    types.set(model.device.id, [...(types.get(model.device.id) ?? []), deviceId])
  }
  return [...types].map(([x, ids]) => {
    const sum = run.devices
      .filter(({ deviceId }) => ids.includes(deviceId))
      .reduce((all, one) => all + of(one), 0)
    return { x, y: finite(round((100 * sum) / (ids.length * run.virtualMs))) }
  })
}

function round(value: number): number {
  return significant(value, 5)
}
