/** Where a device gets a model from: what is on this machine. */
import type { DeviceDriver, ModelPlan } from '@kvasir/engine/device-driver'
import type { Numerics } from '@kvasir/engine/numerics'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { WantedModel } from './model-arrival.js'

/** A model that the driver can load. */
export interface FoundModel {
  /** As the driver takes it. */
  readonly spec: string
  readonly plan: ModelPlan
}

export interface FindHooks {
  readonly signal: AbortSignal
  /** The model is not here and will be fetched; may throw what is in its way. */
  expects(plan: Pick<ModelPlan, 'name' | 'digest' | 'weightBytes'>): void
  progress(bytes: number, bytesTotal: number, deviceId: string): void
}

export interface ModelSource {
  /** Throws NotFoundError where nobody has it, and what reading or fetching it comes to. */
  find(wanted: WantedModel, numerics: Numerics, hooks: FindHooks): Promise<FoundModel>
  /** It is served from now on, and no longer. */
  serving(spec: string, digest: string): void
  servesNoMore(digest: string): void
}

/** Models that the driver finds by itself. */
export function localSource(device: Pick<DeviceDriver, 'inspectModel'>): ModelSource {
  return {
    async find({ model, digest }, numerics) {
      const plan = await device.inspectModel({ model, numerics })
      if (digest !== '' && plan.digest !== digest) {
        throw new InvalidInputError(
          `The model ${model} has digest ${plan.digest.slice(0, 16)} here, not ${digest.slice(0, 16)}; name another, or leave the digest out.`,
          { param: 'digest' },
        )
      }
      return { spec: model, plan }
    },
    serving() {},
    servesNoMore() {},
  }
}
