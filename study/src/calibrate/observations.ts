/**
 * What finished requests say of the cost model: times that were measured, each beside what the roofline gives for it at the
 * device's advertised peaks. The roofline is the coordinator's own.
 */
import type { CompletionHistory } from '@kvasir/coordinator/core/completion-record'
import { CostModel } from '@kvasir/coordinator/core/cost-model'
import type { DeviceFacts, ModelFacts, ProfileName, Role } from '@kvasir/coordinator/core/facts'

export const STAGES = ['prefill', 'reused-prefill', 'step', 'transfer'] as const
/**
 * prefill: of a prompt. reused-prefill: of what is left of one that was mostly reused, of which the cost model learns
 * nothing. step: one decode step. transfer: KV from one device to another.
 */
export type Stage = (typeof STAGES)[number]

/** One time on one device. */
export interface DeviceObservation {
  readonly stage: Exclude<Stage, 'transfer'>
  readonly role: Role
  readonly deviceId: string
  readonly modelDigest: string
  readonly profile: ProfileName
  readonly measuredMs: number
  /** At an efficiency of 1. */
  readonly idealMs: number
}

export interface LinkObservation {
  readonly stage: 'transfer'
  readonly fromDeviceId: string
  readonly toDeviceId: string
  readonly bytes: number
  readonly measuredMs: number
  /** Both ends'. */
  readonly latencyMs: number
}

export type Observation = DeviceObservation | LinkObservation

/** Of the given completions; what ran on a device that the history does not describe is left out. */
export function observationsOf({ devices, completions }: CompletionHistory): Observation[] {
  const byId = new Map(devices.map((facts) => [facts.deviceId, facts]))
  const cost = new CostModel()
  const ideal = (device: DeviceFacts, model: ModelFacts, role: Role, guessedMs: number) =>
    guessedMs * cost.efficiency(device, model, role)

  return completions.flatMap(({ record }) => {
    const observations: Observation[] = []
    const { modelDigest, profile, prefill, decode, transfer } = record
    const on = (deviceId: string): [DeviceFacts, ModelFacts] | undefined => {
      const device = byId.get(deviceId)
      const model = device?.models.find((one) => one.digest === modelDigest && one.profile === profile)
      return device && model ? [device, model] : undefined
    }
    const prefilledOn =
      prefill && prefill.computeMs > 0 && prefill.tokens > 0 ? on(prefill.deviceId) : undefined
    if (prefill && prefilledOn) {
      const { deviceId, tokens, contextTokens, computeMs } = prefill
      observations.push({
        ...{ stage: contextTokens > tokens ? 'reused-prefill' : 'prefill', role: 'prefill' },
        ...{ deviceId, modelDigest, profile },
        measuredMs: computeMs,
        idealMs: ideal(...prefilledOn, 'prefill', cost.prefillMs(...prefilledOn, tokens, contextTokens)),
      })
    }
    const decodedOn = decode && decode.stepsMs > 0 && decode.steps > 0 ? on(decode.deviceId) : undefined
    if (decode && decodedOn) {
      const { deviceId, steps, stepsMs, batch, contextTokens } = decode
      observations.push({
        ...{ stage: 'step', role: 'decode' },
        ...{ deviceId, modelDigest, profile },
        measuredMs: stepsMs / steps,
        idealMs: ideal(...decodedOn, 'decode', cost.stepMs(...decodedOn, batch, contextTokens)),
      })
    }
    if (transfer && transfer.busyMs > 0 && transfer.bytes > 0) {
      const { fromDeviceId, toDeviceId, bytes, busyMs } = transfer
      const latency = (deviceId: string) => byId.get(deviceId)?.link.latencyMs ?? 0
      observations.push({
        ...{ stage: 'transfer', fromDeviceId, toDeviceId, bytes },
        measuredMs: busyMs,
        latencyMs: latency(fromDeviceId) + latency(toDeviceId),
      })
    }
    return observations
  })
}
