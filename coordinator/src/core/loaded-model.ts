/**
 * One model on one device, and how much of it is in use: by others as of the last report, and by this
 * coordinator's own epochs since.
 *
 * L1. What was taken is given back to the object that it was taken of: a model that left the device and came
 *     back meanwhile keeps count.
 */
import type { DeviceView } from './cluster-view.js'
import type { ModelFacts, ModelLoad, TierFacts } from './facts.js'

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
  /** The same for the same model on every device. */
  readonly number: number
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

  constructor(device: DeviceView, facts: ModelFacts, number: number) {
    this.device = device
    this.facts = facts
    this.number = number
    this.#sum()
  }

  /** The device says anew what it has. */
  advertised(facts: ModelFacts): void {
    // What a pool held that was given up is not in the next one.
    if (!this.isThere) this.#others = NOTHING
    this.isThere = true
    this.facts = facts
    this.#sum()
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
    this.slotsUsed = this.#others.slots + this.own.slots
    this.prefillTokensAhead = this.#others.prefillTokens + this.own.prefillTokens
    this.kvBytesMax = this.#tiers().reduce((sum, tier) => sum + tier.capacityBytes, 0)
    this.kvBytesFree = this.kvBytesMax - this.#others.kvBytes - this.own.kvBytes
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
