/**
 * How each device would attend if it decoded a request, with the devices that could attend for it.
 *
 * The house rule stands: a device that prefers decoding attends by itself, and one that prefers prefill
 * attends for no other, unless the client asks for a place on another device. Of many devices that could
 * attend, the ATTENDANTS_MAX that read their memory fastest are weighed, since what they read is what counts.
 */
import {
  type AttentionAsk,
  type AttentionWay,
  type ChosenAttention,
  chooseWay,
  isRemote,
  mayOffload,
  startsDense,
  WORTH_IT,
} from './attention-choice.js'
import { chooseAttention } from './attention-full.js'
import type { AttentionPlan } from './attention-plan.js'
import { AttentionTimes } from './attention-times.js'
import { BestFew } from './best-few.js'
import type { DeviceView } from './cluster-view.js'
import type { CostModel } from './cost-model.js'
import { BYTES_PER_SECOND, type ModelTable, PREFERS_PREFILL, ROW_NUMBERS } from './device-table.js'
import type { DeviceFacts } from './facts.js'
import { BLOCK_TOKENS, blockTokensOf } from './kv-blocks.js'
import type { LoadedModel } from './loaded-model.js'
import type { RowList } from './row-list.js'
import type { StepBounds } from './row-times.js'
import type { StageCosts } from './stage-costs.js'

const ATTENDANTS_MAX = 8

/** What a request says of attention; see AttentionAsk. */
export type AttentionInput = Pick<AttentionAsk, 'wish' | 'isSparseDefault' | 'settled' | 'isPlaceBinding'>

/** Whether another device than the decoding one may attend, so that some are worth looking for. */
export function looksForAttendants(attention: AttentionInput, contextTokens: number, steps: number): boolean {
  return mayOffload({ ...attention, contextTokens }, steps)
}

/** Whether more was asked for than plain dense attention, which every device can. */
export function needsPages({ wish, settled }: AttentionInput): boolean {
  const method = settled?.method ?? wish?.method ?? 'auto'
  return (method !== 'auto' && method !== 'dense') || isRemote(wish)
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
  readonly #isRemote: boolean
  #attendants: readonly DeviceFacts[] = []
  #times: AttentionTimes | undefined

  constructor(
    attention: AttentionInput,
    { contextTokens, steps }: { readonly contextTokens: number; readonly steps: number },
    cluster: Costs,
  ) {
    this.#attention = attention
    this.#contextTokens = contextTokens
    this.#steps = Math.max(1, steps)
    this.#cluster = cluster
    this.#isRemote = isRemote(attention.wish)
  }

  /** Takes the best of the rows that are able to attend and have the memory. */
  takeAttendants({ flags, numbers, loaded }: ModelTable, { rows, length }: RowList): void {
    // One more than needed, since a device does not attend for itself.
    const fastest = new BestFew<number>(ATTENDANTS_MAX + 1)
    const unwanted = this.#isRemote ? 0 : PREFERS_PREFILL
    for (let at = 0; at < length; at += 1) {
      const row = rows[at] ?? 0
      const score = -(numbers[row * ROW_NUMBERS + BYTES_PER_SECOND] ?? 0)
      if (score < fastest.limit && ((flags[row] ?? 0) & unwanted) === 0) fastest.add(row, score, row)
    }
    const chosen = fastest.items.toSorted((a, b) => a - b)
    this.#attendants = chosen.flatMap((row) => loaded[row]?.device.facts ?? [])
  }

  /** How the device would attend, and a step's time; undefined as for `plan`. */
  weigh(decoder: LoadedModel): ChosenAttention<AttentionWay> | undefined {
    const times = this.#timesOf(decoder)
    const attendants = this.#attendantsFor(decoder)
    const { facts, device } = decoder
    times.at(device.facts, facts, decoder.slotsUsed + 1, attendants)
    const site = {
      model: facts,
      decode: device.facts,
      steps: this.#steps,
      hasAttendants: attendants.length > 0,
    }
    return chooseWay(this.#ask(decoder), site, times)
  }

  /** What holds of a step on every device. */
  get bounds(): StepBounds {
    const tokensMax = this.#contextTokens + this.#steps
    return { tokensMax, worthShare: startsDense(this.#attention) ? WORTH_IT : 0 }
  }

  /** Undefined where the place that the client asked for cannot be had while this device decodes. */
  plan(decoder: LoadedModel, prefill: DeviceView): AttentionPlan | undefined {
    const { costs, stageCosts } = this.#cluster
    const site = {
      model: decoder.facts,
      prefill: prefill.facts,
      decode: decoder.device.facts,
      steps: this.#steps,
      costs,
      stageCosts,
    }
    const attendants = this.#attendantsFor(decoder)
    return chooseAttention(this.#ask(decoder), site, attendants, this.#timesOf(decoder))
  }

  #ask(decoder: LoadedModel): AttentionAsk {
    // Without spreading: it is made for every device that could decode.
    const { wish, settled, isSparseDefault, isPlaceBinding } = this.#attention
    const choosesPages = isPaged(decoder)
    const contextTokens = this.#contextTokens
    const batch = decoder.slotsUsed + 1
    return { wish, settled, isSparseDefault, isPlaceBinding, choosesPages, contextTokens, batch }
  }

  #timesOf({ device, facts }: LoadedModel): AttentionTimes {
    const { costs, stageCosts } = this.#cluster
    const site = { model: facts, decode: device.facts, steps: this.#steps, costs, stageCosts }
    this.#times ??= new AttentionTimes(this.#contextTokens, site)
    return this.#times
  }

  #attendantsFor(decoder: LoadedModel): readonly DeviceFacts[] {
    const { device } = decoder
    const { traits } = device
    if (!isPaged(decoder) || (traits.prefers === 'decode' && !this.#isRemote)) return NOBODY
    const others = this.#attendants.includes(device.facts)
      ? this.#attendants.filter((facts) => facts !== device.facts)
      : this.#attendants
    return others.length > ATTENDANTS_MAX ? others.slice(0, ATTENDANTS_MAX) : others
  }
}

/** Whether the device chooses pages of this model. */
function isPaged({ device, facts }: LoadedModel): boolean {
  return device.traits.choosesPages && blockTokensOf(facts) === BLOCK_TOKENS
}

const NOBODY: readonly DeviceFacts[] = []
