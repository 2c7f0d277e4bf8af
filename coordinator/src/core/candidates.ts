/**
 * The devices of each role that are weighed for a request: of those that the filters leave, the quickest few.
 *
 * C1. What is found is what weighing every device would find. How long a device's step takes at least is known
 *     from its row (AttentionPlacement.leastMs), and only devices that this does not rule out are looked at.
 */
import type { AttentionPlacement } from './attention-placement.js'
import { BestFew } from './best-few.js'
import type { CostModel } from './cost-model.js'
import type { DeviceFilter } from './device-filter.js'
import { ModelTable, PREFERS_DECODE } from './device-table.js'
import type { ProfileName } from './facts.js'
import type { LoadedModel } from './loaded-model.js'
import { type Candidate, type Decoder, PAIRED_MAX, quickest } from './pairs.js'
import type { PrefixChoice } from './prefix-choice.js'
import type { RowList, RowsLeft } from './row-list.js'
import { fillLeastStepMs } from './row-times.js'

export interface Weighing {
  readonly filter: DeviceFilter
  readonly attention: AttentionPlacement
  readonly prefix: PrefixChoice
  readonly costs: CostModel
}

export class Candidates {
  readonly #weighing: Weighing
  readonly #table: ModelTable
  readonly #left: RowsLeft
  readonly #decodeEfficiency: number

  /** Goes through all devices; `mayOffload`: looks for some that could attend for others, too. */
  constructor(
    weighing: Weighing,
    model: { readonly digest: string; readonly profile: ProfileName },
    mayOffload: boolean,
  ) {
    const { filter, attention, costs } = weighing
    this.#weighing = weighing
    this.#table = filter.model ?? new ModelTable()
    this.#left = filter.pass(mayOffload)
    attention.takeAttendants(this.#table, this.#left.attend)
    this.#decodeEfficiency = costs.sharedEfficiency(model, 'decode')
  }

  get prefersPrefill(): boolean {
    return this.#left.prefillFirst.length > 0
  }

  /** The quickest that prefer prefill; the quickest of all where none does. */
  prefillers(): readonly Candidate[] {
    const list = this.prefersPrefill ? this.#left.prefillFirst : this.#left.prefillLast
    this.#weighing.prefix.fillLocalMs(this.#table, list)
    const few = new BestFew<Candidate>(PAIRED_MAX)
    for (let at = 0; at < list.length; at += 1) {
      const roleMs = list.ms[at] ?? 0
      // Rows ascend: of equal ones the first is kept.
      if (roleMs >= few.limit) continue
      const row = list.rows[at] ?? 0
      const model = this.#table.loaded[row]
      if (model) few.add({ model, roleMs }, roleMs, row)
    }
    return few.items
  }

  /**
   * The quickest of the devices that decode first, or of those that do not. `areAllLookedAt`: those that find
   * nobody to attend for them are counted as turned away.
   */
  decoders(areFirst: boolean, areAllLookedAt: boolean): readonly Decoder[] {
    const list = areFirst ? this.#left.decodeFirst : this.#left.decodeLast
    const { rows, length } = list
    if (areAllLookedAt) list.ms.fill(0)
    else this.#fillLeastStepMs(list)
    // First those that take least at least, and so leave little for the others.
    const likely = new BestFew<number>(PAIRED_MAX)
    for (let at = 0; at < length; at += 1) {
      const leastMs = list.ms[at] ?? 0
      if (leastMs < likely.limit) likely.add(rows[at] ?? 0, leastMs, rows[at] ?? 0)
    }
    const few = new BestFew<Decoder>(PAIRED_MAX)
    for (const row of likely.items) this.#addDecoder(few, row)
    for (let at = 0; at < length; at += 1) {
      const leastMs = list.ms[at] ?? 0
      if (leastMs > few.limit) continue
      const row = rows[at] ?? 0
      if (few.isWanted(leastMs, row) && !likely.items.includes(row)) this.#addDecoder(few, row)
    }
    return few.items
  }

  /** No step of a device that does not decode first takes less, milliseconds. */
  leastUnusualStepMs(): number {
    const list = this.#left.decodeLast
    this.#fillLeastStepMs(list)
    let leastMs = Number.POSITIVE_INFINITY
    for (let at = 0; at < list.length; at += 1) leastMs = Math.min(leastMs, list.ms[at] ?? 0)
    return leastMs
  }

  /** The quickest that decode first and hold the beginning of the prompt, of which they could prefill the rest. */
  holders(): readonly (Candidate & { readonly decoder: Decoder })[] {
    const { filter, prefix } = this.#weighing
    const found: (Candidate & { readonly decoder: Decoder })[] = []
    for (const row of prefix.heldRows(this.#table)) {
      const prefersDecode = ((this.#table.flags[row] ?? 0) & PREFERS_DECODE) !== 0
      if (!prefersDecode || !filter.isLeftForBoth(row)) continue
      const decoder = this.#weigh(row)
      if (!decoder || prefix.localTokens(decoder.model) === 0) continue
      found.push({ model: decoder.model, decoder, roleMs: prefix.localMs(decoder.model) })
    }
    return quickest(found)
  }

  #fillLeastStepMs(list: RowList): void {
    fillLeastStepMs(this.#table, list, this.#weighing.attention.bounds, this.#decodeEfficiency)
  }

  #addDecoder(few: BestFew<Decoder>, row: number): void {
    const decoder = this.#weigh(row)
    if (decoder) few.add(decoder, decoder.roleMs, row)
    else this.#weighing.filter.turnAway('decode', 'attend')
  }

  #weigh(row: number): Decoder | undefined {
    const model: LoadedModel | undefined = this.#table.loaded[row]
    const way = model && this.#weighing.attention.weigh(model)?.way
    return way && { model, isOffloaded: way.attend !== null, roleMs: way.stepMs }
  }
}
