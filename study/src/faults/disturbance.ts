/** When faults keep two processes from hearing of each other in time. */
import type { ClusterFault } from './fault-case.js'

/** Until a call that was cut off is known to be broken, at both ends, and what was held back has arrived. */
const AFTER_MS = 2_600

/** The end of the last disturbance in a time between any two of `parties`; undefined where there was none. */
export function disturbedUntilMs(
  faults: readonly ClusterFault[],
  parties: readonly string[],
  fromMs: number,
  toMs: number,
): number | undefined {
  let untilMs: number | undefined
  for (const fault of faults) {
    const endMs = fault.atMs + fault.forMs + AFTER_MS
    if (fault.atMs > toMs || endMs < fromMs || !disturbs(fault, parties)) continue
    untilMs = Math.max(untilMs ?? 0, endMs)
  }
  return untilMs
}

function disturbs(fault: ClusterFault, parties: readonly string[]): boolean {
  switch (fault.kind) {
    case 'crash':
    case 'restart':
    case 'stall':
      return parties.includes(fault.device)
    case 'partition':
    case 'one-way-partition':
      return parties.includes(fault.a) && parties.includes(fault.b)
    case 'broken-calls':
    case 'late-calls':
    case 'repeated-calls':
      return parties.includes(fault.device)
    default:
      return false
  }
}
