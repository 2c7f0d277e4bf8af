/**
 * Which devices could take a part in serving a request: the absolute part of placement, in the order of
 * FILTER_REASONS. One pass over all devices, which counts those that are turned away.
 */
import { type AttentionInput, needsPages } from './attention-placement.js'
import { type ClusterView, type DeviceView, stateOf } from './cluster-view.js'
import { FILTER_REASONS, type FilterReason, type PlacedRole } from './decision.js'
import type { ProfileName } from './facts.js'
import { BLOCK_TOKENS, poolBytes } from './kv-blocks.js'
import type { LoadedModel } from './loaded-model.js'

export interface FilterInput {
  readonly modelDigest: string
  /** Tokens to prefill, and to reserve room for on the decoding device. */
  readonly prefillTokens: number
  readonly reserveTokens: number
  readonly attention: AttentionInput
  /** Devices that failed this request a moment ago. */
  readonly avoids: (deviceId: string) => boolean
}

export interface PlacementLimits {
  readonly protocolVersion: number
  readonly protocolVersionMin: number
}

/** Takes the models that are left, in the order of the devices. */
export type Takes = (role: PlacedRole, model: LoadedModel) => void

export class DeviceFilter {
  readonly counts: Readonly<Record<PlacedRole, number[]>> = {
    prefill: FILTER_REASONS.map(() => 0),
    decode: FILTER_REASONS.map(() => 0),
    attend: FILTER_REASONS.map(() => 0),
  }
  readonly #input: FilterInput
  readonly #view: ClusterView
  readonly #limits: PlacementLimits
  readonly #nowMs: number
  /** Number of the model in the view. */
  readonly #model: number
  readonly #pages: number
  readonly #needsPages: boolean

  constructor(
    input: FilterInput,
    profile: ProfileName,
    view: ClusterView,
    limits: PlacementLimits,
    nowMs: number,
  ) {
    this.#input = input
    this.#view = view
    this.#limits = limits
    this.#nowMs = nowMs
    this.#model = view.modelNumber({ digest: input.modelDigest, profile })
    this.#pages = Math.floor(input.prefillTokens / BLOCK_TOKENS)
    this.#needsPages = needsPages(input.attention)
  }

  /** Gives what is left for each role and counts the others. */
  pass(roles: readonly PlacedRole[], takes: Takes): void {
    for (const device of this.#view.list) {
      // Who has no model at all, such as a host agent, is no device that could be turned away.
      if (device.facts.models.length === 0) continue
      const model = this.#usable(device)
      for (const role of roles) {
        const reason = typeof model === 'string' ? model : this.#against(model, role)
        if (reason !== undefined) this.turnAway(role, reason)
        else if (typeof model !== 'string') takes(role, model)
      }
    }
  }

  turnAway(role: PlacedRole, reason: FilterReason): void {
    const index = FILTER_REASONS.indexOf(reason)
    this.counts[role][index] = (this.counts[role][index] ?? 0) + 1
  }

  /** The model on the device, or what speaks against the device in every role. */
  #usable(device: DeviceView): LoadedModel | FilterReason {
    const state = stateOf(device, this.#nowMs)
    if (state !== 'ready') return state
    const { protocolVersion, protocolVersionMin } = device.facts
    const limits = this.#limits
    const isSpoken =
      protocolVersion >= limits.protocolVersionMin && protocolVersionMin <= limits.protocolVersion
    if (!isSpoken) return 'protocol'
    for (const model of device.models) {
      if (model.number !== this.#model || !model.isThere) continue
      return model.facts.contextTokensMax < this.#input.prefillTokens ? 'model' : model
    }
    return 'model'
  }

  /** What speaks against a device that could be used, in this role. */
  #against(model: LoadedModel, role: PlacedRole): FilterReason | undefined {
    const { device, facts } = model
    const { traits } = device
    const isAble =
      role === 'prefill' ? traits.canPrefill : role === 'decode' ? traits.canDecode : traits.canAttend
    if (!isAble) return 'capability'
    const isAttending = role === 'attend'
    if (isAttending && (traits.attendPagesMax === 0 || this.#pages > traits.attendPagesMax))
      return 'capability'
    if (isAttending || (role === 'decode' && this.#needsPages)) {
      if (facts.slidingWindowTokens !== undefined) return 'sliding-window'
      if (!isAttending && !traits.choosesPages) return 'capability'
    }
    const { prefillTokens, reserveTokens, avoids } = this.#input
    const tokens =
      role === 'prefill' ? prefillTokens : role === 'decode' ? reserveTokens : this.#pages * BLOCK_TOKENS
    const bytes = poolBytes(facts, tokens)
    if (bytes > model.kvBytesMax) return 'too-small'
    if (avoids(device.ref.deviceId)) return 'failed-before'
    if (device.refusedUntilMs > this.#nowMs) return 'refused'
    if (role === 'decode' && model.slotsUsed >= device.facts.decodeSlots) return 'slots'
    return bytes > model.kvBytesFree ? 'memory' : undefined
  }

  /** Whether a model that was left for one role is also left for another. */
  isLeft(model: LoadedModel, role: PlacedRole): boolean {
    return this.#against(model, role) === undefined
  }
}
