/**
 * Makes a case small that breaks a rule: leaves out faults, requests and devices for as long as the same rule is broken
 * (delta debugging: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", TSE 2002).
 */
import type { FaultCase } from './fault-case.js'
import type { FoundViolation } from './run-case.js'

export interface Shrunk {
  readonly faultCase: FaultCase
  readonly violation: FoundViolation
  /** Runs that it took. */
  readonly runs: number
}

/** `breaks` plays a case. `runsMax` bounds the work. */
export function shrink(
  faultCase: FaultCase,
  violation: FoundViolation,
  breaks: (candidate: FaultCase) => FoundViolation | null,
  runsMax: number,
): Shrunk {
  let best = faultCase
  let found = violation
  let runs = 0
  const tries = (candidate: FaultCase): boolean => {
    if (runs >= runsMax) return false
    runs += 1
    const again = breaks(candidate)
    if (again?.rule !== violation.rule) return false
    best = candidate
    found = again
    return true
  }
  for (let before = -1; before !== sizeOf(best) && runs < runsMax; ) {
    before = sizeOf(best)
    thin(best.faults, (faults) => tries({ ...best, faults }))
    thin(best.requests, (requests) => tries({ ...best, requests }))
    for (const deviceId of devicesOf(best)) tries(withoutDevice(best, deviceId))
    for (const { id, hostBlocks } of best.cluster.machines) if (hostBlocks > 0) tries(withoutHost(best, id))
    if (best.cluster.coalesce) tries({ ...best, cluster: { ...best.cluster, coalesce: false } })
  }
  return { faultCase: best, violation: found, runs }
}

function sizeOf({ faults, requests, cluster }: FaultCase): number {
  const hosts = cluster.machines.filter(({ hostBlocks }) => hostBlocks > 0).length
  const devices = cluster.machines.reduce((sum, machine) => sum + machine.devices.length, 0)
  return faults.length + requests.length + devices + hosts + (cluster.coalesce ? 1 : 0)
}

/** Leaves out ever smaller parts of a list; `keeps` says whether what is left will do. */
function thin<Item>(items: readonly Item[], keeps: (left: readonly Item[]) => boolean): void {
  let left = items
  for (let size = Math.ceil(left.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let from = 0; from < left.length; ) {
      const candidate = [...left.slice(0, from), ...left.slice(from + size)]
      if (keeps(candidate)) left = candidate
      else from += size
    }
  }
}

function devicesOf({ cluster }: FaultCase): string[] {
  return cluster.machines.flatMap(({ devices }) => devices.map(({ deviceId }) => deviceId))
}

function withoutDevice(faultCase: FaultCase, deviceId: string): FaultCase {
  const { cluster, faults } = faultCase
  const machines = cluster.machines.map((machine) => {
    return { ...machine, devices: machine.devices.filter((device) => device.deviceId !== deviceId) }
  })
  return {
    ...faultCase,
    cluster: { ...cluster, machines },
    faults: faults.filter((fault) => !isAbout(fault, deviceId)),
  }
}

function withoutHost(faultCase: FaultCase, machineId: string): FaultCase {
  const { cluster, faults } = faultCase
  const machines = cluster.machines.map((machine) => {
    return machine.id === machineId ? { ...machine, hostBlocks: 0 } : machine
  })
  const left = faults.filter((fault) => !isAbout(fault, `host-${machineId}`))
  return { ...faultCase, cluster: { ...cluster, machines }, faults: left }
}

function isAbout(fault: FaultCase['faults'][number], id: string): boolean {
  if ('device' in fault) return fault.device === id
  return 'a' in fault && (fault.a === id || fault.b === id)
}
