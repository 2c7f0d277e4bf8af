/**
 * Fits the cost model to a part of the finished requests and says how far its predictions were from the others, before and
 * after.
 *
 * K1 No request is both fitted to and judged by. K2 The same history, seed and share give the same result, whatever the
 *    order of the requests.
 */
import type { CompletionHistory, KeptCompletion } from '@kvasir/coordinator/core/completion-record'
import { CostModel } from '@kvasir/coordinator/core/cost-model'
import type { DeviceFacts, ModelFacts } from '@kvasir/coordinator/core/facts'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { uniformInt } from 'pure-rand/distribution/uniformInt'
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus'
import { median } from '../statistics.js'
import { type Fit, fitted, linkKey, roleKey } from './fit.js'
import { type Observation, observationsOf, type Stage } from './observations.js'
import { errorOf, type Predict, type PredictionError, predictionError } from './prediction-error.js'

/** Fewer cannot be both fitted to and judged by. */
export const REQUESTS_MIN = 10

export interface CalibrationOptions {
  readonly seed: number
  /** Share of the requests that is kept apart to judge by, above 0 and below 1. */
  readonly holdOut: number
}

/** On requests that were not fitted to. */
export interface StageErrors {
  readonly stage: Stage
  /** A device, or both ends of a link; empty: of all together. */
  readonly deviceIds: readonly string[]
  readonly model: string
  readonly profile: string
  /** As a coordinator predicts that has seen nothing; as one does that has learned from the fitted requests; as fitted. */
  readonly before: PredictionError
  readonly learned: PredictionError
  readonly after: PredictionError
}

export interface Calibration {
  readonly requests: { readonly fitted: number; readonly heldOut: number }
  readonly fit: Fit
  /** By device or link. */
  readonly errors: readonly StageErrors[]
  /** Over all devices, a stage each. */
  readonly total: readonly StageErrors[]
  /** What was predicted at placement of all requests, as they were served. */
  readonly served: { readonly ttft: PredictionError | null; readonly tpot: PredictionError | null }
  /** A device's times follow from a catalogue and not from its hardware. */
  readonly modelled: readonly string[]
}

export function calibrate(history: CompletionHistory, options: CalibrationOptions): Calibration {
  const { devices, completions } = history
  if (completions.length < REQUESTS_MIN) {
    throw new InvalidInputError(
      `${completions.length} finished requests are known; ${REQUESTS_MIN} are needed to fit and to judge: send more, with prompts of several lengths, and calibrate again.`,
    )
  }
  const { train, test } = split(completions, options)
  const fit = fitted(observationsOf({ devices, completions: train }))
  const judged = observationsOf({ devices, completions: test })
  const ways = {
    before: predictorOf(devices, new CostModel()),
    learned: predictorOf(devices, learnedFrom(devices, train)),
    after: predictorOfFit(devices, fit),
  }
  const names = new Map(devices.flatMap(({ models }) => models.map(({ digest, name }) => [digest, name])))
  const used = new Set(judged.flatMap(deviceIdsOf))
  return {
    requests: { fitted: train.length, heldOut: test.length },
    fit,
    errors: groupsOf(judged, (one) => groupKey(one)).flatMap((group) => errorsOf(group, ways, names, false)),
    total: groupsOf(judged, ({ stage }) => stage).flatMap((group) => errorsOf(group, ways, names, true)),
    served: {
      ttft: errorOf(servedErrors(completions, 'ttftMs')),
      tpot: errorOf(servedErrors(completions, 'tpotMs')),
    },
    modelled: devices
      .filter(({ modelled, deviceId }) => modelled && used.has(deviceId))
      .map(({ deviceId }) => deviceId),
  }
}

/** By seed alone: requests are shuffled from the order of their ids. */
function split(completions: readonly KeptCompletion[], { seed, holdOut }: CalibrationOptions) {
  const shuffled = [...completions].sort((a, b) => (a.requestId < b.requestId ? -1 : 1))
  const random = xoroshiro128plus(seed)
  for (let index = shuffled.length - 1; index > 0; index -= 1) {
    const other = uniformInt(random, 0, index)
    const [a, b] = [shuffled[index], shuffled[other]]
    if (a !== undefined && b !== undefined) {
      shuffled[index] = b
      shuffled[other] = a
    }
  }
  const heldOut = Math.min(shuffled.length - 1, Math.max(1, Math.round(shuffled.length * holdOut)))
  const test = new Set(shuffled.slice(0, heldOut))
  // In the order in which they ended, as a coordinator learns.
  return {
    train: completions.filter((one) => !test.has(one)),
    test: completions.filter((one) => test.has(one)),
  }
}

function learnedFrom(devices: readonly DeviceFacts[], train: readonly KeptCompletion[]): CostModel {
  const cost = new CostModel()
  const byId = new Map(devices.map((facts) => [facts.deviceId, facts]))
  for (const { record } of train) cost.observe(record, (deviceId) => byId.get(deviceId))
  return cost
}

function predictorOf(devices: readonly DeviceFacts[], cost: CostModel): Predict {
  const find = finder(devices)
  return (one) => {
    if (one.stage === 'transfer') {
      const [from, to] = [find(one.fromDeviceId)?.device, find(one.toDeviceId)?.device]
      return from && to ? cost.transferMs(from, to, one.bytes) : Number.NaN
    }
    const on = find(one.deviceId, one.modelDigest, one.profile)
    return on?.model ? one.idealMs / cost.efficiency(on.device, on.model, one.role) : Number.NaN
  }
}

/** What was not fitted is predicted as the rest of its kind, and without any as before. */
function predictorOfFit(devices: readonly DeviceFacts[], fit: Fit): Predict {
  const before = predictorOf(devices, new CostModel())
  const own = new Map(fit.efficiencies.map((one) => [roleKey(one), one.efficiency]))
  const rates = new Map(fit.rates.map((one) => [linkKey(one), one.bytesPerSecond]))
  const shared = (digest: string, role: string) =>
    median(
      fit.efficiencies
        .filter((one) => one.modelDigest === digest && one.role === role)
        .map((one) => one.efficiency),
    )
  return (one) => {
    if (one.stage === 'transfer') {
      const rate = rates.get(linkKey(one))
      return rate === undefined ? before(one) : (one.bytes * 1e3) / rate + one.latencyMs
    }
    const efficiency = own.get(roleKey(one)) ?? shared(one.modelDigest, one.role)
    return Number.isFinite(efficiency) ? one.idealMs / efficiency : before(one)
  }
}

function finder(devices: readonly DeviceFacts[]) {
  const byId = new Map(devices.map((facts) => [facts.deviceId, facts]))
  return (deviceId: string, digest?: string, profile?: string) => {
    const device = byId.get(deviceId)
    if (!device) return undefined
    const model: ModelFacts | undefined = device.models.find(
      (one) => one.digest === digest && one.profile === profile,
    )
    return { device, model }
  }
}

function errorsOf(
  group: readonly Observation[],
  ways: Readonly<Record<'before' | 'learned' | 'after', Predict>>,
  names: ReadonlyMap<string, string>,
  isTotal: boolean,
): StageErrors[] {
  const [first] = group
  const before = predictionError(group, ways.before)
  const learned = predictionError(group, ways.learned)
  const after = predictionError(group, ways.after)
  if (!first || !before || !learned || !after) return []
  const isOfModel = !isTotal && first.stage !== 'transfer'
  return [
    {
      stage: first.stage,
      deviceIds: isTotal ? [] : deviceIdsOf(first),
      model: isOfModel ? (names.get(first.modelDigest) ?? first.modelDigest) : '',
      profile: isOfModel ? first.profile : '',
      ...{ before, learned, after },
    },
  ]
}

function servedErrors(completions: readonly KeptCompletion[], what: 'ttftMs' | 'tpotMs'): number[] {
  return completions.flatMap(({ predicted, measured }) => {
    const took = measured[what]
    return predicted === null || took === null || took <= 0 ? [] : [Math.abs(predicted[what] - took) / took]
  })
}

function deviceIdsOf(one: Observation): string[] {
  return one.stage === 'transfer' ? [one.fromDeviceId, one.toDeviceId] : [one.deviceId]
}

function groupKey(one: Observation): string {
  return one.stage === 'transfer' ? linkKey(one) : `${one.stage}\n${roleKey(one)}`
}

function groupsOf(
  observations: readonly Observation[],
  keyOf: (one: Observation) => string,
): Observation[][] {
  const groups = new Map<string, Observation[]>()
  for (const one of observations) {
    const key = keyOf(one)
    const group = groups.get(key)
    if (group) group.push(one)
    else groups.set(key, [one])
  }
  return [...groups.keys()].sort().flatMap((key) => [groups.get(key) ?? []])
}
