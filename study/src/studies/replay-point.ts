/** One replay of a workload on a cluster under one policy, in a worker thread. */
import { loadCatalogue } from '@kvasir/catalogue/load-catalogue'
import type { ClusterPlan } from '../cluster/cluster-plan.js'
import type { DeviceUsage } from '../cluster/request.js'
import { VirtualCluster } from '../cluster/virtual-cluster.js'
import { clusterPlan, readClusterFile } from '../cluster-file/cluster-file.js'
import type { Point } from '../study.js'
import { requestsOf, type Workload } from '../workload/workload.js'
import { type DeviceCounts, mixedPlan } from './device-mix.js'
import { type ReplayMeasure, ReplayMeter, type Slo } from './replay-meter.js'
import { dollarsOf } from './replay-money.js'
import { type ReplayPolicy, replayPolicy } from './replay-policies.js'

export interface ReplayInput {
  readonly seed: number
  readonly catalogue: readonly string[]
  /** Undefined: the one that comes with Kvasir. */
  readonly cluster: string | undefined
  /** Instead of the cluster's devices. */
  readonly mix?: DeviceCounts
  /** Instead of the cluster's. */
  readonly blockTokens?: number
  readonly workload: Workload
  readonly requests: number
  readonly policy: string
  readonly slo: Slo
  readonly windowMs: number
  readonly windows: number
  /** The run ends as soon as fewer than this share of the requests can meet the SLO. */
  readonly attainMin?: number
}

export interface ReplayRun extends ReplayMeasure {
  readonly blockTokens: number
  /** Of the run alone, the reading of the trace included. */
  readonly cpuS: number
  readonly virtualMs: number
  readonly events: number
  readonly steps: number
  readonly devices: readonly DeviceUsage[]
  /** Of all devices and hosts; NaN where the catalogue lacks one. */
  readonly energyJ: number
  readonly dollars: number
  /** Ended before its time, since too many requests had missed the SLO. */
  readonly isStopped: boolean
}

/** Plays in worker threads; undefined for each that a stop left out. */
export type Play = (
  inputs: readonly ReplayInput[],
  what: string,
) => Promise<readonly (ReplayRun | undefined)[]>

const SAMPLES_A_WINDOW = 10
const TELL_EVERY = 64

/** Too many requests have missed the SLO already. */
class Hopeless extends Error {}

export const point: Point<ReplayInput, ReplayRun> = (input, tell) => {
  const policy = replayPolicy(input.policy)
  const plan = policy.planned(planFor(input))
  const meter = new ReplayMeter(input.slo, input.windowMs, input.windows)
  const missedMax = (1 - (input.attainMin ?? 0)) * input.requests
  const cluster = new VirtualCluster(plan, {
    seed: input.seed,
    limits: policy.limits,
    onOutcome: (outcome) => {
      meter.outcome(outcome)
      if (meter.missed > missedMax) throw new Hopeless()
      if (meter.ended % TELL_EVERY === 0) tell(meter.ended / input.requests)
    },
    // Where only the SLO is asked for nobody looks at what devices do meanwhile.
    ...(input.attainMin === undefined
      ? { sample: { everyMs: input.windowMs / SAMPLES_A_WINDOW, take: (sample) => meter.sample(sample) } }
      : {}),
  })
  const before = process.cpuUsage()
  const played = play(cluster, requestsFor(input, plan, policy))
  const { user, system } = process.cpuUsage(before)
  const devices = plan.machines.flatMap((machine) => machine.devices)
  return {
    ...meter.measure(devices.map(({ deviceId }) => deviceId)),
    blockTokens: plan.blockTokens,
    cpuS: (user + system) / 1e6,
    virtualMs: cluster.nowMs,
    events: played?.events ?? 0,
    steps: played?.steps ?? 0,
    devices: played?.devices ?? [],
    energyJ: energy(plan, played?.devices ?? [], cluster.nowMs),
    dollars: dollarsOf(plan),
    isStopped: played === undefined,
  }
}

function planFor({ catalogue: files, cluster, mix, blockTokens }: ReplayInput): ClusterPlan {
  const catalogue = loadCatalogue(files)
  const description = readClusterFile(cluster)
  const plan = mix ? mixedPlan(description, catalogue, mix) : clusterPlan(description, catalogue)
  return blockTokens === undefined ? plan : { ...plan, blockTokens }
}

function requestsFor(
  { workload, seed, slo }: ReplayInput,
  { blockTokens }: ClusterPlan,
  policy: ReplayPolicy,
) {
  return requestsOf(workload, {
    ...{ seed, blockTokens, hasReuse: policy.hasReuse },
    ...(policy.tellsDeadline ? { ttftDeadlineMs: slo.ttftMs } : {}),
  })
}

/** Undefined where it was stopped. */
function play(cluster: VirtualCluster, requests: ReturnType<typeof requestsOf>) {
  try {
    return cluster.run(requests)
  } catch (error) {
    if (error instanceof Hopeless) return undefined
    throw error
  }
}

function energy(plan: ClusterPlan, usage: readonly DeviceUsage[], virtualMs: number): number {
  const ids = new Set(plan.machines.flatMap(({ devices }) => devices.map(({ deviceId }) => deviceId)))
  const ofDevices = usage.filter(({ deviceId }) => ids.has(deviceId)).map(({ energyJ }) => energyJ)
  const hostWatts = plan.machines.reduce((sum, { hostIdleWatts }) => sum + hostIdleWatts, 0)
  return ofDevices.reduce((sum, one) => sum + one, (hostWatts * virtualMs) / 1_000)
}
