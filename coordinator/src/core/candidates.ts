/**
 * The devices of each role that are weighed for a request: of those that the filters leave, the quickest few.
 *
 * C1. What is found is what weighing every device would find. How long a device's step takes at least is known
 *     from its row (AttentionPlacement.leastMs), and only devices that this does not rule out are looked at.
 */
import type { AttentionPlacement } from './attention-placement.js'
import { BestFew } from './best-few.js'
import type { CostModel } from './cost-model.js'
import type { DeviceFilter, RowTaker } from './device-filter.js'
import { ModelTable, PREFERS_DECODE, PREFERS_PREFILL } from './device-table.js'
import type { ProfileName } from './facts.js'
import type { LoadedModel } from './loaded-model.js'
import { type Candidate, type Decoder, PAIRED_MAX, quickest } from './pairs.js'
import type { PrefixChoice } from './prefix-choice.js'
import { leastStepMs } from './row-times.js'

export interface Weighing {
  readonly filter: DeviceFilter
  readonly attention: AttentionPlacement
  readonly prefix: PrefixChoice
  readonly costs: CostModel
}

export class Candidates implements RowTaker {
  /** Rows that decode first, and those that prefill first. */
  readonly decodeFirst: number[] = []
  readonly prefillFirst: number[] = []
  readonly #weighing: Weighing
  readonly #table: ModelTable
  /** Leading blocks of the prompt by row, of those that prefill first; and the rows of the others that hold any. */
  readonly #held = new Map<number, number>()
  readonly #holders: number[] = []
  readonly #decodeEfficiency: number
  readonly #prefilling = new BestFew<Candidate>(PAIRED_MAX)

  constructor(weighing: Weighing, model: { readonly digest: string; readonly profile: ProfileName }) {
    const { filter, prefix, costs } = weighing
    this.#weighing = weighing
    this.#table = filter.model ?? new ModelTable()
    prefix.forEachHolder(this.#table, (row, blocks) => {
      if (((this.#table.flags[row] ?? 0) & PREFERS_DECODE) !== 0) this.#holders.push(row)
      else this.#held.set(row, blocks)
    })
    // In the order of the devices, as all that is weighed.
    this.#holders.sort((a, b) => a - b)
    this.#decodeEfficiency = costs.sharedEfficiency(model, 'decode')
  }

  /** Goes through all devices. */
  find(mayOffload: boolean): void {
    const { filter, attention } = this.#weighing
    filter.pass(mayOffload, this)
    attention.settleAttendants(this.#table)
  }

  prefill(row: number): void {
    if (((this.#table.flags[row] ?? 0) & PREFERS_PREFILL) !== 0) this.#addPrefill(this.#prefilling, row)
  }

  decode(row: number): void {
    const prefersDecode = ((this.#table.flags[row] ?? 0) & PREFERS_DECODE) !== 0
    if (prefersDecode) this.decodeFirst.push(row)
    else this.prefillFirst.push(row)
  }

  attend(row: number): void {
    this.#weighing.attention.addAttendant(this.#table, row)
  }

  get prefersPrefill(): boolean {
    return this.#prefilling.items.length > 0
  }

  /** The quickest that prefer prefill; the quickest of all where none does. */
  prefillers(): readonly Candidate[] {
    if (this.prefersPrefill) return this.#prefilling.items
    this.#weighing.prefix.forEachHolder(this.#table, (row, blocks) => this.#held.set(row, blocks))
    const others = new BestFew<Candidate>(PAIRED_MAX)
    this.#table.loaded.forEach((_model, row) => {
      if (this.#weighing.filter.isLeft(row, 'prefill')) this.#addPrefill(others, row)
    })
    return others.items
  }

  /**
   * The quickest of these rows, whose steps take at least so long each. Without `leastMs` those that find nobody
   * to attend for them are counted as turned away.
   */
  decoders(rows: readonly number[], leastMs: readonly number[] | undefined): readonly Decoder[] {
    const few = new BestFew<Decoder>(PAIRED_MAX)
    const begun = leastMs ? this.#likely(rows, leastMs) : []
    for (const row of begun) this.#addDecoder(few, row)
    for (let at = 0; at < rows.length; at += 1) {
      const row = rows[at] ?? 0
      if (few.isWanted(leastMs?.[at] ?? 0, row) && !begun.includes(row)) this.#addDecoder(few, row)
    }
    return few.items
  }

  /** No step of each of these rows takes less, milliseconds. */
  leastStepMs(rows: readonly number[]): number[] {
    return leastStepMs(this.#table, rows, this.#weighing.attention.bounds, this.#decodeEfficiency)
  }

  /** The quickest that decode first and hold the beginning of the prompt, of which they could prefill the rest. */
  holders(): readonly (Candidate & { readonly decoder: Decoder })[] {
    const { filter, prefix } = this.#weighing
    const found: (Candidate & { readonly decoder: Decoder })[] = []
    for (const row of this.#holders) {
      if (!filter.isLeft(row, 'decode') || !filter.isLeft(row, 'prefill')) continue
      const decoder = this.#weigh(row)
      if (!decoder || prefix.localTokens(decoder.model) === 0) continue
      found.push({ model: decoder.model, decoder, roleMs: prefix.localMs(decoder.model) })
    }
    return quickest(found)
  }

  #addPrefill(few: BestFew<Candidate>, row: number): void {
    const { prefix } = this.#weighing
    const blocks = this.#held.size > 0 ? (this.#held.get(row) ?? 0) : 0
    const roleMs = prefix.localMsAt(this.#table, row, blocks)
    const model = this.#table.loaded[row]
    if (few.isWanted(roleMs, row) && model) few.add({ model, roleMs }, roleMs, row)
  }

  /** Those that take least at least, and so leave little for the others. */
  #likely(rows: readonly number[], leastMs: readonly number[]): readonly number[] {
    const few = new BestFew<number>(PAIRED_MAX)
    for (let at = 0; at < rows.length; at += 1) {
      const row = rows[at] ?? 0
      few.add(row, leastMs[at] ?? 0, row)
    }
    return few.items
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
