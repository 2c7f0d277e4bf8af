/**
 * A trace replayed on a cluster: how many requests meet the SLO, how long they take, what is reused, what devices do, what it
 * costs; several policies side by side; the largest rate that the cluster sustains; the smallest cluster that would do.
 */
import { loadCatalogue } from '@kvasir/catalogue/load-catalogue'
import type { Catalogue } from '@kvasir/catalogue/specs'
import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { clusterPlan, readClusterFile } from '../cluster-file/cluster-file.js'
import type { StudyContext, StudyOptions, StudyResult } from '../study.js'
import type { ArrivalModel, ArrivalName } from '../workload/arrivals.js'
import type { BrokenRows } from '../workload/trace-file.js'
import { withUnpacked } from '../workload/unpacked-trace.js'
import { goodputs } from './replay-goodput.js'
import type { Play, ReplayInput, ReplayRun } from './replay-point.js'
import { replayPolicy } from './replay-policies.js'
import { replayResult } from './replay-results.js'
import type { Survey, SurveyInput } from './replay-survey.js'
import { smallestCluster } from './what-if.js'

export interface ReplayOptions {
  /** Undefined: requests with lengths like those of the Azure trace, `requests` of them. */
  readonly trace?: string
  readonly format?: string
  readonly brokenRows: BrokenRows
  readonly requests: number
  /** Of the trace's time, seconds. */
  readonly from: number
  readonly to?: number
  readonly limit?: number
  readonly speed: number
  readonly arrivals: ArrivalName
  readonly rate?: number
  readonly variation: number
  readonly cluster?: string
  readonly blockTokens?: number
  readonly sloTtft: number
  readonly sloTpot: number
  readonly attain: number
  readonly policy: readonly string[]
  readonly goodput?: boolean
  readonly whatIf?: readonly string[]
  readonly devicesMax: number
  readonly years: number
  readonly kwhDollars: number
}

const POINT = new URL('./replay-point.js', import.meta.url)
const SURVEY = new URL('./replay-survey.js', import.meta.url)
const WINDOWS_MAX = 30
/** Windows with fewer requests on average would show percentiles of one, and gaps. */
const REQUESTS_A_WINDOW = 10
/** What published replays of Mooncake traces name their speed by. */
const COARSE_TOKENS = 512
const COARSE_WARM_UPS = 3
/** Of so many measured runs the middle one counts: one alone is as long as the machine happens to be busy. */
const COARSE_RUNS = 5

export function studyReplay(
  options: ReplayOptions & StudyOptions,
  context: StudyContext,
): Promise<StudyResult> {
  return withUnpacked(options.trace, context.signal, (unpacked) => replayed(options, unpacked, context))
}

async function replayed(
  options: ReplayOptions & StudyOptions,
  unpacked: string | undefined,
  context: StudyContext,
): Promise<StudyResult> {
  const catalogue = loadCatalogue(options.catalogue)
  const description = readClusterFile(options.cluster)
  const plan = clusterPlan(description, catalogue)
  for (const policy of options.policy) replayPolicy(policy)
  for (const type of options.whatIf ?? []) knownDevice(type, catalogue)
  const { seed, blockTokens = plan.blockTokens } = options
  const [survey] = await context.points<SurveyInput, Survey>(
    SURVEY,
    [{ seed, blockTokens, workload: askedWorkload(options, unpacked) }],
    'reading the trace',
  )
  if (!survey) return replayResult({ options, plan, catalogue, runs: [] })
  if (survey.requests === 0) {
    throw new InvalidInputError('The window has no request of the trace: change --from, --to or --limit.', {
      param: 'from',
    })
  }
  tellSurvey(survey, context)
  const base: Omit<ReplayInput, 'policy'> = {
    ...{ seed, catalogue: options.catalogue, cluster: options.cluster, blockTokens },
    workload: survey.workload,
    requests: survey.requests,
    slo: { ttftMs: options.sloTtft, tpotMs: options.sloTpot },
    ...windowsOf(survey),
  }
  const play: Play = (inputs, what) => context.points<ReplayInput, ReplayRun>(POINT, inputs, what)

  const [first = 'house', ...others] = options.policy
  // Alone, so that what the process takes is what it takes.
  const alone = await play([{ ...base, policy: first }], first)
  const isTimedCoarse = blockTokens < COARSE_TOKENS && idTokensOf(survey) === COARSE_TOKENS
  const coarse = isTimedCoarse
    ? await timed(play, { ...base, policy: first, blockTokens: COARSE_TOKENS })
    : undefined
  const rest =
    others.length === 0
      ? []
      : await play(
          others.map((policy) => ({ ...base, policy })),
          'policies',
        )
  const runs = [...alone, ...rest].map((run, index) => ({ policy: options.policy[index] ?? first, run }))
  const rates = options.goodput ? await goodputs(base, options.policy, options.attain, play) : []
  // The search asks how much hardware is needed, not which small block is shared.
  const searchTokens = Math.max(blockTokens, idTokensOf(survey))
  const whatIf = options.whatIf
    ? await smallestCluster(
        {
          base: { ...base, policy: first, blockTokens: searchTokens },
          ...{ description, catalogue, types: options.whatIf },
          ...{ countMax: options.devicesMax, attain: options.attain },
        },
        play,
        context,
      )
    : undefined
  return replayResult({
    ...{ options, plan: { ...plan, blockTokens }, catalogue, survey, runs, rates },
    ...(coarse ? { coarse } : {}),
    ...(whatIf ? { whatIf } : {}),
  })
}

/** Before anything is played, and by the option: the cluster file has no such line. */
function knownDevice(type: string, catalogue: Catalogue): void {
  if (catalogue.devices.has(type)) return
  const near = didYouMean(type, [...catalogue.devices.keys()])
  throw new InvalidInputError(
    `--what-if: the catalogue has no device ${type}${near}; --catalogue adds devices of yours.`,
    { param: 'whatIf' },
  )
}

/** The run that took the middle time; undefined where it was stopped. So short a run would time the compiler: the code is warm first. */
async function timed(play: Play, input: ReplayInput): Promise<ReplayRun | undefined> {
  const runs: ReplayRun[] = []
  for (let number = 0; number < COARSE_WARM_UPS + COARSE_RUNS; number += 1) {
    const isMeasured = number >= COARSE_WARM_UPS
    const what = `blocks of ${input.blockTokens}${isMeasured ? '' : ', unmeasured'}`
    // One at a time, so that none takes time from another.
    const [run] = await play([input], what)
    if (!run) return undefined
    if (isMeasured) runs.push(run)
  }
  return runs.toSorted((a, b) => a.cpuS - b.cpuS)[Math.floor(COARSE_RUNS / 2)]
}

/** Over which time the plots go, at least a second each. */
function windowsOf({ requests, spanMs }: Survey): { readonly windowMs: number; readonly windows: number } {
  const most = Math.min(WINDOWS_MAX, Math.ceil(spanMs / 1_000), Math.floor(requests / REQUESTS_A_WINDOW))
  const windows = Math.max(1, most)
  return { windowMs: Math.max(1_000, spanMs / windows), windows }
}

function idTokensOf({ workload }: Survey): number {
  return workload.kind === 'trace' ? workload.facts.idTokens : 0
}

function askedWorkload(options: ReplayOptions, unpacked: string | undefined): SurveyInput['workload'] {
  const arrivals = arrivalModel(options)
  if (options.trace === undefined) {
    if (!arrivals) {
      throw new InvalidInputError(
        'Name a trace with --trace FILE, or the rate of made-up requests with --rate 5.',
        { param: 'trace' },
      )
    }
    return { kind: 'synthetic', requests: options.limit ?? options.requests, arrivals }
  }
  const { trace, format, brokenRows, from, to = Number.POSITIVE_INFINITY } = options
  if (to <= from) {
    throw new InvalidInputError(`--to ${to} is not after --from ${from}: the window is empty.`, {
      param: 'to',
    })
  }
  return {
    kind: 'trace',
    source: {
      ...{ file: trace, brokenRows },
      ...(unpacked === undefined ? {} : { unpacked }),
      ...(format === undefined ? {} : { format }),
    },
    fromMs: from * 1_000,
    toMs: to * 1_000,
    limit: options.limit ?? Number.POSITIVE_INFINITY,
    speed: options.speed,
    ...(arrivals ? { arrivals } : {}),
  }
}

/** Undefined: as the trace says. */
function arrivalModel({ trace, arrivals, rate, variation }: ReplayOptions): ArrivalModel | undefined {
  const name = trace === undefined && arrivals === 'trace' && rate !== undefined ? 'poisson' : arrivals
  if (name === 'trace') {
    if (rate === undefined || trace === undefined) return undefined
    throw new InvalidInputError(
      'A rate needs an arrival model, such as --arrivals poisson; to compress the times of the trace give --speed.',
      { param: 'rate' },
    )
  }
  if (rate !== undefined) return { name, ratePerS: rate, variation }
  throw new InvalidInputError(`--arrivals ${name} needs a rate, such as --rate 5 (requests a second).`, {
    param: 'rate',
  })
}

function tellSurvey(survey: Survey, context: StudyContext): void {
  const { workload, requests, spanMs } = survey
  const [prompt, output] = [survey.promptTokensMean, survey.outputTokensMean].map((mean) => mean.toFixed(0))
  const span = `${requests.toLocaleString('en')} requests over ${(spanMs / 1_000).toFixed(0)} s, on average ${prompt} tokens of prompt and ${output} of output`
  if (workload.kind === 'synthetic') {
    context.say(`${span}, made up.`)
    return
  }
  const { format, brokenRows, brokenTold, isSorted } = workload.facts
  context.say(`${span}; format ${format}.`)
  if (brokenRows > 0) {
    const told = brokenTold.join('; ')
    const more = brokenRows > brokenTold.length ? '; and more' : ''
    context.say(`${brokenRows} broken rows were left out: ${told}${more}.`)
  }
  if (!isSorted) context.say('Times run backwards in the trace; its rows were sorted.')
}
