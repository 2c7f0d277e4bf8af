/**
 * One model on one device, and how much of it is in use: by others as of the last report, and by this
 * coordinator's own epochs since.
 *
 * L1. What was taken is given back to the object that it was taken of: a model that left the device and came
 *     back meanwhile keeps count.
 */
import type { DeviceView } from './cluster-view.js'
import { keyWidth, prefillOpsPerSecond, stepOpsPerSecond } from './cost-model.js'
import {
  ATTEND_PAGES_MAX,
  BYTES_PER_SECOND,
  CAN_ATTEND,
  CAN_DECODE,
  CAN_PREFILL,
  CHOOSES_PAGES,
  CONTENDED,
  CONTEXT_TOKENS_MAX,
  DECODE_EFFICIENCY,
  FULL,
  KEY_WIDTH,
  KV_TOKENS_FREE,
  KV_TOKENS_MAX,
  type ModelTable,
  PARAMETERS,
  POOL_BYTES_PER_TOKEN,
  PREFERS_DECODE,
  PREFERS_PREFILL,
  PREFILL_EFFICIENCY,
  PREFILL_OPS_PER_SECOND,
  PREFILL_TOKENS_AHEAD,
  ROW_NUMBERS,
  SLOTS_USED,
  STEP_OPS_PER_SECOND,
  THERE,
  TOKENS_A_BLOCK,
  WEIGHT_BYTES,
  WINDOWED,
} from './device-table.js'
import type { ModelFacts, ModelLoad, TierFacts } from './facts.js'
import { BLOCK_TOKENS, blockTokensOf } from './kv-blocks.js'

/** What an epoch takes of a model on a device. */
export interface Commitment {
  readonly slots: number
  /** As it lies in the device's memory. */
  readonly kvBytes: number
  readonly prefillTokens: number
}

export const NOTHING: Commitment = { slots: 0, kvBytes: 0, prefillTokens: 0 }

/** What a load report says of one model. */
export type ReportedUse = Pick<ModelLoad, 'decodeSlotsUsed' | 'prefillTokensWaiting' | 'tiers'>

export class LoadedModel {
  readonly device: DeviceView
  facts: ModelFacts
  /** Of the model on all devices. */
  readonly table: ModelTable
  /** False once the device does not advertise it any more. */
  isThere = true
  /** What this coordinator's epochs take now. */
  own = NOTHING
  /** Decode slots in use, by anyone. */
  slotsUsed = 0
  /** Prompt tokens ahead of a new prefill. */
  prefillTokensAhead = 0
  /** Room for one sequence in a pool that holds nothing else. */
  kvBytesMax = 0
  /** Room for one more sequence, whose blocks may lie in several tiers. */
  kvBytesFree = 0
  /** Peak of `own` since the last report. */
  #ownPeak = NOTHING
  #others = NOTHING

  constructor(device: DeviceView, facts: ModelFacts, table: ModelTable) {
    this.device = device
    this.facts = facts
    this.table = table
    table.put(device.row, this)
    this.#sum()
    this.write()
  }

  /** The device says anew what it has. */
  advertised(facts: ModelFacts): void {
    // What a pool held that was given up is not in the next one.
    if (!this.isThere) this.#others = NOTHING
    this.isThere = true
    this.facts = facts
    this.table.variants.add(facts.variant)
    this.#sum()
  }

  /** The device has it no more. */
  left(): void {
    this.isThere = false
    this.write()
  }

  /** This life of the device is over. */
  forget(): void {
    this.table.clear(this.device.row)
  }

  /** What the cost model knows of this device alone; NaN where it knows nothing. */
  learned(prefillEfficiency: number, decodeEfficiency: number): void {
    const { numbers } = this.table
    const first = this.device.row * ROW_NUMBERS
    numbers[first + PREFILL_EFFICIENCY] = prefillEfficiency
    numbers[first + DECODE_EFFICIENCY] = decodeEfficiency
  }

  reported(use: ReportedUse): void {
    // The report may be older than what was asked of the device since: our own part of it is taken
    // at its peak, since a device thought too free refuses, but one thought too full is idle.
    const used = {
      slots: use.decodeSlotsUsed,
      kvBytes: use.tiers.reduce((sum, tier) => sum + tier.leasedBytes, 0),
      prefillTokens: use.prefillTokensWaiting,
    }
    this.#others = combine(used, this.#ownPeak, (all, own) => Math.max(0, all - own))
    this.#ownPeak = this.own
    this.#sum()
  }

  take(commitment: Commitment): void {
    this.#change(commitment, 1)
  }

  giveBack(commitment: Commitment): void {
    this.#change(commitment, -1)
  }

  get isIdle(): boolean {
    return this.own.slots === 0 && this.own.prefillTokens === 0 && this.own.kvBytes === 0
  }

  #change(commitment: Commitment, sign: 1 | -1): void {
    this.own = combine(this.own, commitment, (own, change) => own + sign * change)
    this.#ownPeak = combine(this.#ownPeak, this.own, Math.max)
    this.#sum()
  }

  #sum(): void {
    const { slotsUsed, kvBytesFree, prefillTokensAhead } = this
    this.slotsUsed = this.#others.slots + this.own.slots
    this.prefillTokensAhead = this.#others.prefillTokens + this.own.prefillTokens
    this.kvBytesMax = this.#tiers().reduce((sum, tier) => sum + tier.capacityBytes, 0)
    this.kvBytesFree = this.kvBytesMax - this.#others.kvBytes - this.own.kvBytes
    if (this.slotsUsed < slotsUsed) this.table.slotsFreed += 1
    if (this.kvBytesFree > kvBytesFree) this.table.memoryFreed += 1
    if (this.prefillTokensAhead < prefillTokensAhead) {
      for (const model of this.device.models) model.table.turnsFreed += 1
    }
    this.#writeUse()
    // What waits for one model makes the others wait.
    for (const model of this.device.models) if (model !== this) model.#writeUse()
  }

  /** Keeps the table in step with what was advertised. */
  write(): void {
    const { device, facts } = this
    const { numbers } = this.table
    const first = device.row * ROW_NUMBERS
    numbers[first + CONTEXT_TOKENS_MAX] = facts.contextTokensMax
    numbers[first + ATTEND_PAGES_MAX] = device.traits.attendPagesMax
    numbers[first + BYTES_PER_SECOND] = device.traits.bytesPerSecond
    numbers[first + PREFILL_OPS_PER_SECOND] = prefillOpsPerSecond(device.facts, facts)
    numbers[first + STEP_OPS_PER_SECOND] = stepOpsPerSecond(device.facts, facts)
    numbers[first + PARAMETERS] = facts.parameters
    numbers[first + WEIGHT_BYTES] = facts.weightBytes
    numbers[first + KEY_WIDTH] = keyWidth(facts)
    numbers[first + POOL_BYTES_PER_TOKEN] = facts.poolBytesPerToken
    numbers[first + TOKENS_A_BLOCK] = blockTokensOf(facts)
    this.#writeUse()
  }

  /** The same for what is in use. */
  #writeUse(): void {
    const { device, facts } = this
    const { numbers, flags } = this.table
    const first = device.row * ROW_NUMBERS
    flags[device.row] = this.#flags()
    // Bytes of nothing fit anywhere.
    const tokensIn = (bytes: number) =>
      facts.poolBytesPerToken > 0 ? bytes / facts.poolBytesPerToken : Number.POSITIVE_INFINITY
    numbers[first + KV_TOKENS_MAX] = tokensIn(this.kvBytesMax)
    numbers[first + KV_TOKENS_FREE] = tokensIn(this.kvBytesFree)
    numbers[first + SLOTS_USED] = this.slotsUsed
    numbers[first + PREFILL_TOKENS_AHEAD] = this.prefillTokensAhead
  }

  #flags(): number {
    const { traits, models, facts } = this.device
    let flags = this.isThere ? THERE : 0
    if (traits.canPrefill) flags |= CAN_PREFILL
    if (traits.canDecode) flags |= CAN_DECODE
    const isPaged = blockTokensOf(this.facts) === BLOCK_TOKENS
    if (traits.canAttend && isPaged) flags |= CAN_ATTEND
    if (traits.prefers === 'prefill') flags |= PREFERS_PREFILL
    if (traits.prefers === 'decode') flags |= PREFERS_DECODE
    if (traits.choosesPages && isPaged) flags |= CHOOSES_PAGES
    if (this.facts.slidingWindowTokens !== undefined) flags |= WINDOWED
    if (this.slotsUsed >= facts.decodeSlots) flags |= FULL
    for (const model of models) if (model !== this && model.prefillTokensAhead > 0) flags |= CONTENDED
    return flags
  }

  #tiers(): readonly Pick<TierFacts, 'capacityBytes'>[] {
    const { load, facts } = this.device
    const told = load && useOf(load, this.facts)
    if (told && told.tiers.length > 0) return told.tiers
    return this.facts.tiers.length > 0 ? this.facts.tiers : facts.tiers
  }
}

/** What a report says of the model; nothing where it tells of others only, since the model is newer than it. */
export function useOf(
  load: ReportedUse & { readonly models: readonly ModelLoad[] },
  { digest, profile }: Pick<ModelFacts, 'digest' | 'profile'>,
): ReportedUse | undefined {
  if (load.models.length === 0) return load
  return load.models.find((model) => model.digest === digest && model.profile === profile)
}

export function combine(a: Commitment, b: Commitment, join: (a: number, b: number) => number): Commitment {
  return {
    slots: join(a.slots, b.slots),
    kvBytes: join(a.kvBytes, b.kvBytes),
    prefillTokens: join(a.prefillTokens, b.prefillTokens),
  }
}
