/** Plays one case: the virtual cluster with both cores, its faults, the checks. */
import { AgentCore } from '@kvasir/agent/core/agent-core'
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import { CoordinatorCore } from '@kvasir/coordinator/core/coordinator-core'
import type { RequestLimits } from '@kvasir/coordinator/core/request-machine'
import { VirtualCluster } from '../cluster/virtual-cluster.js'
import type { AnyAgentCore, AnyCoordinatorCore } from '../cluster/world.js'
import { type CaseCounts, noCounts } from './case-counts.js'
import { planOf } from './case-plan.js'
import { Checker } from './checker.js'
import { type ClusterFault, type FaultCase, faultText } from './fault-case.js'
import { History } from './history.js'
import { MessageFaults } from './message-faults.js'
import { type RuleName, Violation } from './violation.js'

/** Cores with a mistake in them. */
export interface Plant {
  coordinator?(limits: RequestLimits): AnyCoordinatorCore
  agent?(options: CoreOptions): AnyAgentCore
}

export interface FoundViolation {
  readonly rule: RuleName
  readonly message: string
  readonly atMs: number
  readonly about: readonly string[]
}

export interface CaseResult {
  readonly violation: FoundViolation | null
  readonly counts: CaseCounts
  /** Empty unless it was asked for. */
  readonly history: History
}

export interface CaseOptions {
  readonly plant?: Plant
  readonly isRecorded?: boolean
}

export function runCase(
  faultCase: FaultCase,
  { plant = {}, isRecorded = false }: CaseOptions = {},
): CaseResult {
  const { cluster: shape, requests, faults } = faultCase
  const counts = noCounts()
  const history = new History()
  const messages = new MessageFaults(faults, shape.messageMs, (kind) => {
    counts.befallen[kind] += 1
  })
  const checker = new Checker(faultCase, messages, counts, isRecorded ? history : undefined)
  const { queuedMax, placementDeadlineMs, requestDeadlineMs, leaseTtlMs, waitingMax } = shape
  const cluster = new VirtualCluster(planOf(shape), {
    seed: faultCase.seed,
    onOutcome: (outcome) => checker.ended(outcome),
    limits: {
      ...{ queuedMax, placementDeadlineMs, requestDeadlineMs, policy: shape.policy },
      admission: { isOn: shape.isAdmissionOn },
    },
    agentLimits: { leaseTtlMs, waitingMax },
    coalesce: shape.coalesce,
    fixedAddresses: shape.fixedAddresses,
    transit: (message, nowMs) => messages.transit(message, nowMs),
    makeCoordinator: (limits) =>
      checker.coordinator(limits, plant.coordinator?.(limits) ?? new CoordinatorCore(limits)),
    makeAgent: (options) => checker.agent(options, plant.agent?.(options) ?? new AgentCore(options)),
    lingerMs: leaseTtlMs + 3_000,
  })
  for (const fault of faults) {
    cluster.at(fault.atMs, () => {
      counts.faults[fault.kind] += 1
      if (isRecorded) history.say(cluster.nowMs, 'fault', faultText(fault))
      strike(cluster, checker, faults, fault)
    })
  }
  try {
    cluster.run(requests)
    checker.rest(cluster.nowMs)
    return { violation: null, counts, history }
  } catch (thrown) {
    const violation = violationOf(thrown, cluster.nowMs)
    if (isRecorded) history.say(cluster.nowMs, 'VIOLATION', `${violation.rule}: ${violation.message}`)
    return { violation, counts, history }
  }
}

function violationOf(thrown: unknown, atMs: number): FoundViolation {
  if (thrown instanceof Violation) {
    const { rule, message, about } = thrown
    return { rule, message, atMs, about }
  }
  const message = thrown instanceof Error ? `${thrown.message}` : String(thrown)
  return { rule: 'crash', message: `A core threw: ${message}`, atMs, about: [] }
}

function strike(
  cluster: VirtualCluster,
  checker: Checker,
  faults: readonly ClusterFault[],
  fault: ClusterFault,
): void {
  const endMs = fault.atMs + fault.forMs
  /** Whether another fault keeps up what this one began. */
  const goesOn = (is: (other: ClusterFault) => boolean) =>
    faults.some(
      (other) => other !== fault && is(other) && other.atMs <= endMs && other.atMs + other.forMs > endMs,
    )
  switch (fault.kind) {
    case 'crash':
      cluster.crash(fault.device)
      checker.died(fault.device)
      cluster.at(endMs, () => {
        if (!goesOn((other) => other.kind === 'crash' && other.device === fault.device))
          cluster.restart(fault.device)
      })
      break
    case 'restart':
      cluster.restart(fault.device)
      break
    case 'stall':
      cluster.stall(fault.device, fault.forMs)
      break
    case 'partition':
    case 'one-way-partition':
      partition(cluster, faults, fault, goesOn)
      break
    case 'slow-link':
      cluster.slowLink(fault.device, fault.factor)
      cluster.at(endMs, () => {
        if (!goesOn((other) => other.kind === 'slow-link' && other.device === fault.device)) {
          cluster.slowLink(fault.device, 1)
        }
      })
      break
    case 'bus-outage':
      cluster.busDown()
      cluster.at(endMs, () => {
        if (!goesOn(({ kind }) => kind === 'bus-outage')) cluster.busUp()
      })
      break
    default:
  }
}

type Partition = Extract<ClusterFault, { kind: 'partition' | 'one-way-partition' }>

function partition(
  cluster: VirtualCluster,
  faults: readonly ClusterFault[],
  fault: Partition,
  goesOn: (is: (other: ClusterFault) => boolean) => boolean,
): void {
  const { a, b, kind, atMs, forMs } = fault
  cluster.partition(a, b, kind === 'partition' ? 'both' : 'a-to-b')
  const isBetween = (other: ClusterFault): other is Partition =>
    (other.kind === 'partition' || other.kind === 'one-way-partition') &&
    [other.a, other.b].includes(a) &&
    [other.a, other.b].includes(b)
  cluster.at(atMs + forMs, () => {
    cluster.heal(a, b)
    if (!goesOn(isBetween)) return
    // Healing opened both ways, and what another fault keeps shut stays so.
    const endMs = atMs + forMs
    for (const other of faults) {
      if (other === fault || !isBetween(other) || other.atMs > endMs || other.atMs + other.forMs <= endMs)
        continue
      cluster.partition(other.a, other.b, other.kind === 'partition' ? 'both' : 'a-to-b')
    }
  })
}
