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
import { type DeviceTable, ModelTable, PREFERS_DECODE, ROW_NUMBERS, THERE } from './device-table.js'
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

/** How far back a device stands: its numbers begin at `first`, and it is at `at` of `length` that are left. */
export type Rank = (left: {
  readonly numbers: Float64Array
  readonly first: number
  readonly at: number
  readonly length: number
}) => number

/** Whether a device that prefers decode is there with the model, however busy. */
export function hasDecoder(table: DeviceTable, model: ModelTable | undefined, nowMs: number): boolean {
  for (let row = 0; model && row < table.rows; row += 1) {
    const flags = model.flags[row] ?? 0
    if ((flags & THERE) !== 0 && (flags & PREFERS_DECODE) !== 0 && (table.readyUntilMs[row] ?? 0) >= nowMs) {
      return true
    }
  }
  return false
}

export class Candidates {
  readonly #weighing: Weighing
  readonly #table: ModelTable
  readonly #left: RowsLeft
  readonly #decodeEfficiency: number

  /**
   * Goes through all devices; `mayOffload`: looks for some that could attend for others, too. `isAssisted`: whether
   * devices that prefer prefill may decode.
   */
  constructor(
    weighing: Weighing,
    model: { readonly digest: string; readonly profile: ProfileName },
    mayOffload: boolean,
    isAssisted = true,
  ) {
    const { filter, attention, costs } = weighing
    this.#weighing = weighing
    this.#table = filter.model ?? new ModelTable()
    this.#left = filter.pass(mayOffload)
    if (!isAssisted) {
      const { decodeLast } = this.#left
      for (let at = 0; at < decodeLast.length; at += 1) filter.turnAway('decode', 'assist')
      decodeLast.clear()
    }
    attention.takeAttendants(this.#table, this.#left.attend)
    this.#decodeEfficiency = costs.sharedEfficiency(model, 'decode')
  }

  get prefersPrefill(): boolean {
    return this.#left.prefillFirst.length > 0
  }

  /** The quickest that prefer prefill; the quickest of all where none does. */
  prefillers(): readonly Candidate[] {
    const few = new BestFew<Candidate>(PAIRED_MAX)
    this.#addPrefillers(few, this.prefersPrefill ? this.#left.prefillFirst : this.#left.prefillLast)
    return few.items
  }

  /** The quickest, whatever they prefer. */
  allPrefillers(): readonly Candidate[] {
    const few = new BestFew<Candidate>(PAIRED_MAX)
    this.#addPrefillers(few, this.#left.prefillFirst)
    this.#addPrefillers(few, this.#left.prefillLast)
    return few.items
  }

  /** Of those that prefer it, or of all where none does, the one with the lowest rank; of equal ones the first. */
  prefillerBy(rank: Rank): Candidate | undefined {
    const list = this.prefersPrefill ? this.#left.prefillFirst : this.#left.prefillLast
    const [row] = this.#ranked(list, rank, 1)
    const model = row === undefined ? undefined : this.#table.loaded[row]
    return model && { model, roleMs: this.#weighing.prefix.localMs(model) }
  }

  /** The same of those that decode, and that find whom they need. */
  decoderBy(rank: Rank): Decoder | undefined {
    const { decodeFirst, decodeLast } = this.#left
    for (const row of this.#ranked(decodeFirst.length > 0 ? decodeFirst : decodeLast, rank, PAIRED_MAX)) {
      const decoder = this.#weigh(row)
      if (decoder) return decoder
      this.#weighing.filter.turnAway('decode', 'attend')
    }
    return undefined
  }

  #ranked({ rows, length }: RowList, rank: Rank, count: number): readonly number[] {
    const few = new BestFew<number>(count)
    for (let at = 0; at < length; at += 1) {
      const row = rows[at] ?? 0
      few.add(row, rank({ numbers: this.#table.numbers, first: row * ROW_NUMBERS, at, length }), row)
    }
    return few.items
  }

  #addPrefillers(few: BestFew<Candidate>, list: RowList): void {
    this.#weighing.prefix.fillLocalMs(this.#table, list)
    for (let at = 0; at < list.length; at += 1) {
      const roleMs = list.ms[at] ?? 0
      if (roleMs > few.limit) continue
      const row = list.rows[at] ?? 0
      const model = this.#table.loaded[row]
      if (model) few.add({ model, roleMs }, roleMs, row)
    }
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
    const { prefix } = this.#weighing
    const { heldRows, flags } = this.#table
    const found: (Candidate & { readonly decoder: Decoder })[] = []
    const count = prefix.heldCount(this.#table)
    for (let at = 0; at < count; at += 1) {
      const row = heldRows[at] ?? 0
      // Mostly none is left: a device that holds much is mostly full.
      if (this.#left.both[row] !== 1 || ((flags[row] ?? 0) & PREFERS_DECODE) === 0) continue
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
