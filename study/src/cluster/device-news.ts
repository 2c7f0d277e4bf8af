/**
 * What a device or a host says of itself on the bus in virtual time: its advertisement, every REPORT_MS its load, and which
 * blocks it has and has no longer.
 *
 * B1 Nothing is said by who is dead, and no load by who stalls. Changes of blocks are numbered, none left out.
 */
import type { DeviceFacts, DeviceRef, LoadFacts } from '@kvasir/coordinator/core/facts'
import { wordsOfTexts } from './block-names.js'
import type { Party } from './party.js'
import { modelNames } from './virtual-facts.js'
import type { World } from './world.js'

export const REPORT_MS = 500
/** An advertisement is repeated, as the real agent does now and then. */
const REPORTS_AN_ADVERTISEMENT = 8

/** Who says it. */
export interface Speaker extends Party {
  readonly facts: DeviceFacts
  readonly ref: DeviceRef
}

export class DeviceNews {
  /** Of the last change of its blocks. */
  kvSequence = 0
  readonly #world: World
  readonly #speaker: Speaker
  readonly #loadNow: (sequence: number) => LoadFacts
  readonly #variant: string
  readonly #tier: string
  #reports = 0

  /** `loadNow`: what the report with this number says. */
  constructor(world: World, speaker: Speaker, loadNow: (sequence: number) => LoadFacts) {
    this.#world = world
    this.#speaker = speaker
    this.#loadNow = loadNow
    this.#variant = modelNames(world.plan).variant
    this.#tier = speaker.facts.tiers[0]?.name ?? ''
  }

  begin(firstReportMs: number): void {
    this.#advertise()
    this.#world.queue.after(firstReportMs, () => this.#report())
  }

  kvChanged(stored: readonly string[], removed: readonly string[]): void {
    if (this.#speaker.isDead) return
    this.kvSequence += 1
    const coordinator = this.#world.coordinator()
    // Field by field: it is said ten times a request, and copying objects takes longer than the rest.
    const { deviceId, incarnation } = this.#speaker.ref
    const change = {
      deviceId,
      incarnation,
      sequence: this.kvSequence,
      variant: this.#variant,
      stored: wordsOfTexts(stored),
      removed: wordsOfTexts(removed),
      tier: this.#tier,
    }
    this.#world.network.publish(this.#speaker, coordinator, 'kv', () => coordinator.kvChanged(change))
  }

  #advertise(): void {
    const coordinator = this.#world.coordinator()
    const { facts } = this.#speaker
    this.#world.network.publish(this.#speaker, coordinator, 'advertised', () => coordinator.advertised(facts))
  }

  #report(): void {
    const { network, queue } = this.#world
    if (this.#speaker.isDead) return
    queue.after(REPORT_MS, () => this.#report())
    if (this.#speaker.stalledUntilMs > queue.nowMs) return
    this.#reports += 1
    const load = this.#loadNow(this.#reports)
    const coordinator = this.#world.coordinator()
    network.publish(this.#speaker, coordinator, 'load', () => coordinator.reported(load))
    if (this.#reports % REPORTS_AN_ADVERTISEMENT === 0) this.#advertise()
  }
}
