/** What a run went through, so that a study can say what it exercised. All are sums over runs. */
import { FAULT_KINDS, type FaultKind } from './fault-case.js'

export interface CaseCounts {
  readonly faults: Record<FaultKind, number>
  /** Messages and calls that fared badly, by kind of fault. */
  readonly befallen: Record<FaultKind, number>
  coreEvents: number
  requests: number
  finished: number
  failed: number
  cancelled: number
  /** Epochs that were given up and placed anew, and those of them that had emitted tokens. */
  replaced: number
  recovered: number
  preempted: number
  refused: number
  /** Prompts whose beginning was found in the device or fetched. */
  reused: number
  demotedBlocks: number
  snapshots: number
}

export function noCounts(): CaseCounts {
  const none = (): Record<FaultKind, number> => {
    return {
      crash: 0,
      restart: 0,
      stall: 0,
      partition: 0,
      'one-way-partition': 0,
      'slow-link': 0,
      'bus-outage': 0,
      'lost-news': 0,
      'doubled-news': 0,
      'late-news': 0,
      'broken-calls': 0,
      'late-calls': 0,
      'repeated-calls': 0,
      'stale-events': 0,
    }
  }
  return {
    faults: none(),
    befallen: none(),
    coreEvents: 0,
    requests: 0,
    finished: 0,
    failed: 0,
    cancelled: 0,
    replaced: 0,
    recovered: 0,
    preempted: 0,
    refused: 0,
    reused: 0,
    demotedBlocks: 0,
    snapshots: 0,
  }
}

export function addCounts(to: CaseCounts, from: CaseCounts): void {
  for (const kind of FAULT_KINDS) {
    to.faults[kind] += from.faults[kind]
    to.befallen[kind] += from.befallen[kind]
  }
  to.coreEvents += from.coreEvents
  to.requests += from.requests
  to.finished += from.finished
  to.failed += from.failed
  to.cancelled += from.cancelled
  to.replaced += from.replaced
  to.recovered += from.recovered
  to.preempted += from.preempted
  to.refused += from.refused
  to.reused += from.reused
  to.demotedBlocks += from.demotedBlocks
  to.snapshots += from.snapshots
}
