/** What a replay found, as figures, tables and plots. */
import type { Catalogue } from '@kvasir/catalogue/specs'
import type { ClusterPlan } from '../cluster/cluster-plan.js'
import { finite, significant } from '../rounding.js'
import type { Cell, Figures, StudyOptions, StudyResult } from '../study.js'
import type { ReplayOptions } from './replay.js'
import type { Goodput } from './replay-goodput.js'
import { dollarsPerHour } from './replay-money.js'
import { replayPlots } from './replay-plots.js'
import type { ReplayRun } from './replay-point.js'
import { replayPolicy } from './replay-policies.js'
import type { Survey } from './replay-survey.js'
import { deviceTable, goodputTable, policyTable, tierTable, whatIfTable } from './replay-tables.js'
import { mixText, type WhatIfAnswer } from './what-if.js'

export interface PolicyRun {
  readonly policy: string
  /** Undefined where a stop left it out. */
  readonly run: ReplayRun | undefined
}

export interface ReplayParts {
  readonly options: ReplayOptions & StudyOptions
  readonly plan: ClusterPlan
  readonly catalogue: Catalogue
  readonly survey?: Survey
  readonly runs: readonly PolicyRun[]
  /** The first policy with blocks of 512 tokens. */
  readonly coarse?: ReplayRun
  readonly rates?: readonly Goodput[]
  readonly whatIf?: WhatIfAnswer
}

export function replayResult(parts: ReplayParts): StudyResult {
  const { options, plan, survey, runs, rates = [], whatIf } = parts
  const done = runs.flatMap(({ policy, run }) => (run ? [{ policy, run }] : []))
  const [first] = done
  const what = options.trace ?? `${survey?.requests ?? 0} made-up requests`
  const rows = done.map(({ policy, run }) => policyRow(policy, run, options))
  return {
    title: `${what} on ${plan.name} (${plan.model.name})`,
    findings: findings(parts, done),
    figures: first ? figuresOf(parts, first.run) : {},
    rows,
    tables: [
      policyTable(rows),
      ...(rates.length > 0 && survey ? [goodputTable(rates, survey, options.attain)] : []),
      ...(whatIf ? [whatIfTable(whatIf)] : []),
      ...(first ? [deviceTable(first.run, first.policy), tierTable(first.run, plan, first.policy)] : []),
    ],
    plots: replayPlots(done, plan, options),
    assumptions: assumptions(parts),
    pointsSkipped: 0,
  }
}

type Done = readonly { readonly policy: string; readonly run: ReplayRun }[]

/** All that a policy is compared by. */
export function policyRow(policy: string, run: ReplayRun, options: ReplayOptions): Record<string, Cell> {
  return {
    policy,
    ...Object.fromEntries(Object.entries(measures(run, options)).map(([k, v]) => [k, cell(v)])),
  }
}

function measures(run: ReplayRun, options: ReplayOptions): Record<string, number> {
  const durationS = run.durationMs / 1_000
  const tokens = run.outputTokens
  const hourly = dollarsPerHour(run, options)
  const allTokens = run.promptTokens + tokens
  return {
    requestsFinished: run.finished,
    requestsFailed: run.arrived - run.finished,
    attainedShare: run.attained / run.arrived,
    attainedTtftShare: run.attainedTtft / run.arrived,
    attainedTpotShare: run.attainedTpot / run.arrived,
    ttftP50Ms: run.ttft.p50,
    ttftP90Ms: run.ttft.p90,
    ttftP99Ms: run.ttft.p99,
    ttftMeanMs: run.ttft.mean,
    tpotP50Ms: run.tpot.p50,
    tpotP90Ms: run.tpot.p90,
    tpotP99Ms: run.tpot.p99,
    latencyP50Ms: run.latency.p50,
    latencyP90Ms: run.latency.p90,
    latencyP99Ms: run.latency.p99,
    throughputPerS: run.finished / durationS,
    tokensPerS: tokens / durationS,
    goodputPerS: run.attained / durationS,
    hitShare: run.cachedTokens / run.promptTokens,
    fetchedShare: run.fetchedTokens / run.promptTokens,
    requestsMoved: run.moved,
    energyJ: run.energyJ,
    joulesPerToken: run.energyJ / tokens,
    dollars: run.dollars,
    dollarsPerHour: hourly,
    dollarsPerMTokens: (hourly * (run.virtualMs / 3.6e6) * 1e6) / allTokens,
    durationS,
  }
}

function figuresOf({ options, coarse, rates = [], survey, whatIf }: ReplayParts, run: ReplayRun): Figures {
  const best = whatIf?.best
  const [rate] = rates
  const figures: Record<string, number> = {
    ...measures(run, options),
    blockTokens: run.blockTokens,
    cpuS: run.cpuS,
    cpuSBlock512: coarse?.cpuS ?? Number.NaN,
    events: run.events,
    eventsPerCpuS: run.events / run.cpuS,
    steps: run.steps,
    goodputMaxPerS: rate && survey ? rate.speed * perSecond(survey) : Number.NaN,
    whatIfDollars: best?.dollars ?? Number.NaN,
    whatIfDevices: best?.devices ?? Number.NaN,
  }
  const finite = Object.entries(figures).filter(([, value]) => Number.isFinite(value))
  return Object.fromEntries(finite.map(([name, value]) => [name, significant(value, 6)]))
}

/** Requests a second that come. */
export function perSecond({ requests, spanMs }: Survey): number {
  return requests / Math.max(1, spanMs / 1_000)
}

/** Of two policies at least. */
function comparison(done: Done): string {
  const ranked = done.toSorted((a, b) => b.run.attained - a.run.attained)
  const shareOf = ({ run }: Done[number]) => percent(run.attained / run.arrived)
  const [best, worst] = [ranked[0], ranked.at(-1)]
  if (!best || !worst || best.run.attained === worst.run.attained) {
    return `Under each of ${done.length} policies as many requests meet the SLO${best ? ` (${shareOf(best)})` : ''}.`
  }
  return `Of ${done.length} policies ${best.policy} has most requests within the SLO (${shareOf(best)}), ${worst.policy} fewest (${shareOf(worst)}).`
}

function findings({ options, rates = [], survey, whatIf, coarse }: ReplayParts, done: Done): string[] {
  const slo = `the SLO (first token within ${options.sloTtft} ms, then ${options.sloTpot} ms a token)`
  const said: string[] = []
  const [first] = done
  if (first) {
    const { run } = first
    const failed = Object.entries(run.failed).map(([why, count]) => `${count} ${why}`)
    said.push(
      `${percent(run.attained / run.arrived)} of ${run.arrived.toLocaleString('en')} requests meet ${slo}; half have their first token within ${ms(run.ttft.p50)}, 99 % within ${ms(run.ttft.p99)}${failed.length > 0 ? `; not finished: ${failed.join(', ')}` : ''}.`,
      `${percent(run.cachedTokens / run.promptTokens)} of the prompt tokens were not computed again, ${percent(run.fetchedTokens / run.promptTokens)} of them all fetched from another device or a host.`,
    )
    if (coarse) {
      said.push(
        `The replay took ${run.cpuS.toFixed(2)} CPU seconds with blocks of ${run.blockTokens} tokens and ${coarse.cpuS.toFixed(2)} with blocks of ${coarse.blockTokens}, ${(run.events / run.cpuS / 1_000).toFixed(0)} thousand events a CPU second with the former.`,
      )
    }
  }
  if (done.length > 1) said.push(comparison(done))
  for (const { policy, speed } of survey ? rates : []) {
    const rate = survey ? speed * perSecond(survey) : 0
    said.push(
      speed === 0
        ? `Under ${policy} no rate that was tried has ${percent(options.attain)} of the requests within the SLO.`
        : `Under ${policy} ${percent(options.attain)} of the requests meet the SLO up to ${rate.toFixed(2)} requests a second, ${speed.toFixed(2)} times what comes.`,
    )
  }
  if (whatIf) said.push(whatIfFinding(whatIf))
  return said
}

function whatIfFinding({ best, attain, tries, candidates, types, left }: WhatIfAnswer): string {
  const tried = `${tries.length} of ${candidates} clusters were played, the others ruled out by those`
  if (left > 0)
    return `The search was stopped with ${left} clusters left; ${best ? `so far ${mixText(best.counts)}` : 'none so far'} is the smallest that meets the SLO.`
  if (best) {
    return `The smallest cluster of ${types.join(' and ')} with ${percent(attain)} of the requests within the SLO is ${mixText(best.counts)}: ${best.devices} devices, ${best.dollars.toLocaleString('en')} dollars with their hosts (${tried}).`
  }
  return `No cluster of ${types.join(' and ')} that was looked at has ${percent(attain)} of the requests within the SLO (${tried}); allow more with --devices-max, or a wider SLO.`
}

function assumptions({ options, plan, catalogue, survey, runs, whatIf, rates = [] }: ReplayParts): string[] {
  const preset = catalogue.presets.get(plan.preset)?.name ?? plan.preset
  const made =
    survey?.workload.kind === 'synthetic'
      ? [
          'Lengths are drawn between the published quantiles of the Azure LLM inference trace of 2023 (code); no prefix is shared.',
        ]
      : []
  const { years, kwhDollars } = options
  return [
    `All times, energy and prices are modelled: device times by roofline from the catalogue (preset ${plan.preset}: ${preset}), links shared fairly among transfers, memories with capacity and bandwidth. The decisions are those of the cores that serve.`,
    ...made,
    `Goodput counts requests with the first token within ${options.sloTtft} ms and at most ${options.sloTpot} ms a later token on average; both are the defaults of this study or given. Requests that failed count as missed.`,
    `Policies: ${runs.map(({ policy }) => `${policy} (${replayPolicy(policy).says})`).join('; ')}. The policies’ names are this project’s own.`,
    `Dollars are the catalogue’s prices of devices and what the cluster file gives for hosts; an hour is that over ${years} years and ${kwhDollars} dollars a kWh; tokens are prompts and answers together. No staff, space or cooling.`,
    'Answers have the lengths of the trace; no client leaves early unless the trace says so, and none comes again after it was refused.',
    ...(whatIf
      ? [
          `The search takes it that more devices do no worse and then checks what has one device less, or one type alone, than the smallest; it packs devices into machines like the first of the cluster file, and plays blocks of ${whatIf.blockTokens} tokens.`,
        ]
      : []),
    ...(rates.length > 0
      ? ['Goodput at other rates compresses or stretches the times of all requests alike.']
      : []),
    'cpuS and cpuSBlock512 are CPU seconds of this machine for the run alone, reading the trace included; the second is the middle of five runs after three unmeasured ones, so that code is compiled by then.',
  ]
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`
}

function ms(value: number): string {
  return value >= 10_000 ? `${(value / 1_000).toFixed(1)} s` : `${value.toFixed(0)} ms`
}

export function cell(value: number | undefined): number | null {
  return finite(significant(value ?? Number.NaN, 6))
}
