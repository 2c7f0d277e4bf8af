/**
 * Fits the cost model to what was measured: one efficiency for each (device, model, role), one rate for each pair of
 * devices. Each is the one with the least mean relative error over the records it is fitted to; one bad moment moves it
 * little. The coordinator itself learns the same numbers record by record, with the newest weighing most.
 */
import type { ProfileName, Role } from '@kvasir/coordinator/core/facts'
import { movingMs } from '@kvasir/coordinator/core/roofline'
import type { DeviceObservation, LinkObservation, Observation } from './observations.js'

/** Fewer say too little of a device. */
export const RECORDS_MIN = 3

export interface FittedEfficiency {
  readonly deviceId: string
  readonly modelDigest: string
  readonly profile: ProfileName
  readonly role: Role
  readonly efficiency: number
  readonly records: number
}

export interface FittedRate {
  readonly fromDeviceId: string
  readonly toDeviceId: string
  readonly bytesPerSecond: number
  readonly records: number
}

export interface Fit {
  readonly efficiencies: readonly FittedEfficiency[]
  readonly rates: readonly FittedRate[]
}

export function fitted(observations: readonly Observation[]): Fit {
  const roles = new Map<string, DeviceObservation[]>()
  const links = new Map<string, LinkObservation[]>()
  for (const observation of observations) {
    if (observation.stage === 'transfer') push(links, linkKey(observation), observation)
    // What is left of a mostly reused prompt takes one step, which says little of whole prompts.
    else if (observation.stage !== 'reused-prefill') push(roles, roleKey(observation), observation)
  }
  return {
    efficiencies: [...roles.values()].flatMap((group) => {
      const [first] = group
      if (first === undefined || group.length < RECORDS_MIN) return []
      const { deviceId, modelDigest, profile, role } = first
      const efficiency = 1 / leastErrorScale(group.map(({ idealMs, measuredMs }) => measuredMs / idealMs))
      return [{ deviceId, modelDigest, profile, role, efficiency, records: group.length }]
    }),
    rates: [...links.values()].flatMap((group) => {
      const [first] = group
      if (first === undefined || group.length < RECORDS_MIN) return []
      const { fromDeviceId, toDeviceId } = first
      const msPerByte = group.map(({ bytes, measuredMs, latencyMs }) => {
        return movingMs(measuredMs, latencyMs) / bytes
      })
      const bytesPerSecond = 1e3 / leastErrorScale(msPerByte)
      return [{ fromDeviceId, toDeviceId, bytesPerSecond, records: group.length }]
    }),
  }
}

export function roleKey(
  of: Pick<DeviceObservation, 'deviceId' | 'modelDigest' | 'profile' | 'role'>,
): string {
  return [of.deviceId, of.modelDigest, of.profile, of.role].join('\n')
}

export function linkKey(of: Pick<LinkObservation, 'fromDeviceId' | 'toDeviceId'>): string {
  return [of.fromDeviceId, of.toDeviceId].join('\n')
}

/**
 * The s for which the mean of |s / v - 1| over the values is least: their median, each weighing 1/v. A prediction that is
 * too long errs without bound and one that is too short by at most 1, so small values weigh more. NaN of none.
 */
export function leastErrorScale(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.reduce((sum, value) => sum + 1 / value, 0) / 2
  let below = 0
  for (const value of sorted) {
    below += 1 / value
    if (below >= half) return value
  }
  return Number.NaN
}

function push<Value>(groups: Map<string, Value[]>, key: string, value: Value): void {
  const group = groups.get(key)
  if (group) group.push(value)
  else groups.set(key, [value])
}
