/**
 * How each device would attend if it decoded a request, with the devices that could attend for it.
 *
 * The house rule stands: a device that prefers decoding attends by itself, and one that prefers prefill
 * attends for no other, unless the client asks for a place on another device.
 */
import { type AttentionAsk, chooseAttention, isRemote, mayOffload } from './attention-choice.js'
import type { AttentionPlan } from './attention-plan.js'
import type { DeviceView } from './cluster-view.js'
import type { CostModel } from './cost-model.js'
import { type DeviceFacts, preferredRole } from './facts.js'
import type { LoadedModel } from './loaded-model.js'
import type { StageCosts } from './stage-costs.js'

/** What a request says of attention; see AttentionAsk. */
export type AttentionInput = Pick<AttentionAsk, 'wish' | 'isSparseDefault' | 'settled' | 'isPlaceBinding'>

/** The kernel that answers attention queries, that of a device which chooses pages itself, and their version. */
const ATTEND_KERNEL = 'choose-pages'
const CHOOSE_KERNEL = 'page-scores'
const KERNEL_VERSION = 1

/** Whether another device than the decoding one may attend, so that some are worth looking for. */
export function looksForAttendants(attention: AttentionInput, contextTokens: number, steps: number): boolean {
  return mayOffload({ ...attention, contextTokens }, steps)
}

/** Whether the device's driver answers attention queries over so many pages. */
export function canAttend({ kernels }: DeviceFacts, pages: number): boolean {
  return kernels.some(({ name, version, limits }) => {
    const pagesMax = limits.pages ?? Number.POSITIVE_INFINITY
    return name === ATTEND_KERNEL && version >= KERNEL_VERSION && pages <= pagesMax
  })
}

/** Whether more was asked for than plain dense attention, which every device can. */
export function needsPages({ wish, settled }: AttentionInput): boolean {
  const method = settled?.method ?? wish?.method ?? 'auto'
  return (method !== 'auto' && method !== 'dense') || isRemote(wish)
}

/** Whether the device's driver knows sparse and remote attention. */
export function choosesPages({ kernels }: DeviceFacts): boolean {
  return kernels.some(({ name, version }) => name === CHOOSE_KERNEL && version >= KERNEL_VERSION)
}

interface Costs {
  readonly costs: CostModel
  readonly stageCosts: StageCosts
}

export class AttentionPlacement {
  readonly #attention: AttentionInput
  readonly #contextTokens: number
  readonly #steps: number
  readonly #cluster: Costs
  readonly #attendants: readonly DeviceFacts[]

  /** `attendants`: devices that are able to and have the memory. */
  constructor(
    attention: AttentionInput,
    { contextTokens, steps }: { readonly contextTokens: number; readonly steps: number },
    cluster: Costs,
    attendants: readonly LoadedModel[],
  ) {
    this.#attention = attention
    this.#contextTokens = contextTokens
    this.#steps = Math.max(1, steps)
    this.#cluster = cluster
    this.#attendants = attendants.map(({ device }) => device.facts)
  }

  /** Undefined where the place that the client asked for cannot be had while this device decodes. */
  plan(decoder: LoadedModel, prefill: DeviceView = decoder.device): AttentionPlan | undefined {
    const { costs, stageCosts } = this.#cluster
    const decode = decoder.device.facts
    const isAble = choosesPages(decode)
    const ask = {
      ...this.#attention,
      choosesPages: isAble,
      contextTokens: this.#contextTokens,
      batch: decoder.slotsUsed + 1,
    }
    const site = {
      model: decoder.facts,
      prefill: prefill.facts,
      decode,
      steps: this.#steps,
      costs,
      stageCosts,
    }
    return chooseAttention(ask, site, isAble ? this.#attendantsFor(decode) : [])
  }

  #attendantsFor(decode: DeviceFacts): readonly DeviceFacts[] {
    const others = this.#attendants.filter(({ deviceId }) => deviceId !== decode.deviceId)
    if (isRemote(this.#attention.wish)) return others
    if (preferredRole(decode) === 'decode') return []
    return others.filter((device) => preferredRole(device) !== 'prefill')
  }
}
