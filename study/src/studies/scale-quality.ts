/**
 * How good placement is: small cases in which every possible way to place all requests is played to the end, with
 * everything that is to come known. A policy that decides one request after the other cannot do better than the best of them.
 */
import type { Catalogue } from '@kvasir/catalogue/specs'
import type { PolicySetting } from '@kvasir/coordinator/core/placement-policy'
import type { PickPolicy } from '@kvasir/coordinator/core/policies/pick-policy'
import type { VirtualRequest } from '../cluster/request.js'
import { VirtualCluster } from '../cluster/virtual-cluster.js'
import { scalePlan } from './scale-plan.js'
import { azureLikeRequests } from './scale-workload.js'

/** They come so closely that where one goes matters to the next. */
const RATE_PER_S = 8

export interface QualityResult {
  /** Mean time from arrival to the last token, milliseconds. */
  readonly houseMs: number
  readonly bestMs: number
  readonly placementsTried: number
}

interface Pair {
  readonly prefill: string
  readonly decode: string
}

/** One GPU and two FPGAs of `study scale`; every further request takes nine times as long. */
export function placementQuality(
  catalogue: Catalogue,
  { seed, requests: count }: { readonly seed: number; readonly requests: number },
  tell: (share: number) => void,
): QualityResult {
  const full = scalePlan(catalogue, 4)
  const machines = full.machines.map((machine) => ({
    ...machine,
    devices: machine.devices.filter(({ deviceId }) => deviceId !== 'gpu-1'),
  }))
  const plan = { ...full, name: 'one GPU, two FPGAs', machines }
  const requests = [...azureLikeRequests({ seed, requests: count, ratePerS: RATE_PER_S })]
  const ids = machines.flatMap(({ devices }) => devices.map(({ deviceId }) => deviceId))
  const played = (policy: PolicySetting) => meanMs(plan, requests, policy)
  const houseMs = played({})
  let bestMs = Number.POSITIVE_INFINITY
  let tried = 0
  const total = (ids.length * ids.length) ** count
  const visit = (pairs: readonly Pair[]): void => {
    if (pairs.length === count) {
      tried += 1
      bestMs = Math.min(bestMs, played({ pick: given(pairs) }))
      // Half of all are the mirror of the other half.
      tell(Math.min(1, (2 * tried) / total))
      return
    }
    for (const prefill of ids) {
      for (const decode of ids) {
        const next = [...pairs, { prefill, decode }]
        if (isInOrder(next)) visit(next)
      }
    }
  }
  visit([])
  return { houseMs, bestMs, placementsTried: tried }
}

/** The two FPGAs are alike: the one that is used first is the first one. */
function isInOrder(pairs: readonly Pair[]): boolean {
  const fpgas = pairs
    .flatMap(({ prefill, decode }) => [prefill, decode])
    .filter((deviceId) => deviceId.startsWith('fpga'))
  return fpgas[0] === undefined || fpgas[0] === 'fpga-2'
}

function given(pairs: readonly Pair[]): PickPolicy {
  return {
    name: 'given',
    pick({ candidates, prefix, turn, isOffloadAsked, score }) {
      const pair = pairs[turn - 1]
      const decoders = [
        ...candidates.decoders(true, isOffloadAsked),
        ...candidates.decoders(false, isOffloadAsked),
      ].filter(({ model }) => model.device.facts.deviceId === pair?.decode)
      const prefillers = candidates
        .allPrefillers()
        .filter(({ model }) => model.device.facts.deviceId === pair?.prefill)
        .map(({ model, roleMs }) => ({ model, roleMs, prefillMs: prefix.prefillMs(model) }))
      const rule = 'in-turn' as const
      return { ranked: score(prefillers, decoders), prefillRule: rule, decodeRule: rule }
    },
  }
}

function meanMs(
  plan: ReturnType<typeof scalePlan>,
  requests: readonly VirtualRequest[],
  policy: PolicySetting,
): number {
  let sumMs = 0
  const cluster = new VirtualCluster(plan, {
    seed: 1,
    limits: { policy, placementDeadlineMs: 600_000 },
    onOutcome: ({ end, endMs, request }) => {
      sumMs += end === 'finished' ? endMs - request.arrivalMs : Number.POSITIVE_INFINITY
    },
  })
  cluster.run(requests.map((request) => ({ ...request, arrivalMs: request.arrivalMs + 1_000 })))
  return sumMs / requests.length
}
