/**
 * One model that a device serves, with all that is its own: the pool of KV blocks behind its driver, the core that
 * decides over them, the runner that joins the two, and what is cached.
 *
 * Invariants:
 * S1 Leases of two models of one incarnation never have the same number: each has a range of its own.
 * S2 From `retire` on it refuses new work; once that has settled nothing runs and nothing is held.
 */
import type { DeviceDriver, DriverModel, LoadedModelFacts } from '@kvasir/engine/device-driver'
import { type KvVariant, Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Clock } from '@kvasir/runtime/clock'
import { withDeadline } from '@kvasir/runtime/deferred'
import type { KvasirError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import type { MeasuredRates } from './calibration.js'
import { AgentCore } from './core/agent-core.js'
import type { CoreLoad, EndReason, Refusal } from './core/events.js'
import type { Demotion } from './demotion.js'
import { DeviceCache } from './device-cache.js'
import { DeviceRunner } from './device-runner.js'
import type { OpenedTier } from './device-tiers.js'
import type { KvIndex } from './kv-index.js'
import { variantOf } from './kv-shape.js'
import { leaseCountersFrom } from './lease-ranges.js'
import type { AgentLimits } from './limits.js'
import type { Pace } from './pace/pace.js'
import { endError, refusalError } from './refusals.js'
import type { AgentSettings } from './settings.js'

/** Beyond the deadline of a retirement: for a step that runs, and transfers that have to notice. */
const RETIRE_GRACE_MS = 5_000

/** A model in the driver, measured. */
export interface OpenedModel {
  readonly driver: DriverModel
  readonly profile: Profile
  /** Nearest first. */
  readonly tiers: readonly OpenedTier[]
  readonly rates: MeasuredRates
  /** Resident bytes of the weights. */
  readonly residentBytes: number
  /** Set where the device keeps the times of a catalogued one. */
  readonly pace: Pace | undefined
}

export interface ServedModelParts extends OpenedModel {
  readonly deviceId: string
  readonly incarnation: bigint
  /** Counts the models that this incarnation has served, from 0. */
  readonly place: number
  readonly device: DeviceDriver
  readonly decodeSlots: number
  readonly tierPolicy: AgentSettings['tierPolicy']
  readonly limits: AgentLimits
  readonly index: KvIndex
  readonly clock: Clock
  readonly log: Logger
  readonly onBroken: (error: KvasirError) => void
  readonly demotion: (model: DemotingModel) => Demotion
}

/** What demotion has to know of a model. */
export type DemotingModel = Pick<ServedModel, 'driver' | 'model' | 'variant'>

export class ServedModel {
  readonly driver: DriverModel
  readonly model: LoadedModelFacts
  readonly profile: Profile
  readonly variant: KvVariant
  readonly tiers: readonly OpenedTier[]
  readonly rates: MeasuredRates
  readonly residentBytes: number
  readonly pace: Pace | undefined
  /** Of one block in the pool, as others are told: the catalogued model's where it is paced. */
  readonly toldBlockBytes: number
  readonly place: number
  readonly runner: DeviceRunner
  readonly cache: DeviceCache
  private readonly core: AgentCore
  /** It is being unloaded, where the device as a whole goes on. */
  private retiring = false

  constructor(private readonly parts: ServedModelParts) {
    const { deviceId, incarnation, driver, profile, limits, index } = parts
    this.driver = driver
    this.model = driver.facts
    this.profile = profile
    this.variant = variantOf(driver.facts, profile)
    this.tiers = parts.tiers
    this.rates = parts.rates
    this.residentBytes = parts.residentBytes
    this.pace = parts.pace
    this.toldBlockBytes = parts.pace?.blockBytes ?? driver.facts.poolBlockBytes
    this.place = parts.place
    this.core = new AgentCore({
      deviceId,
      incarnation,
      leaseTtlMs: limits.leaseTtlMs,
      leaseCountersFrom: leaseCountersFrom(parts.place),
      tiers: parts.tiers.map(({ definition, blocks, bytesPerSecond }) => ({
        name: definition.name,
        blocks,
        bytesPerSecond,
      })),
      blockBytes: this.toldBlockBytes,
      tierPolicy: parts.tierPolicy,
      decodeSlots: parts.decodeSlots,
      ...(parts.pace === undefined ? {} : { decodesAtOnce: parts.pace.deviceModel.use.decodesAtOnce }),
      waitingMax: limits.waitingMax,
      contextTokensMax: this.model.contextTokensMax,
      limits: {
        rowsMax: Math.min(limits.rowsMax, parts.device.describe().rowsMax),
        chunkTokens: limits.chunkTokens,
        sharedChunkTokens: limits.sharedChunkTokens,
      },
    })
    const demotion = parts.demotion(this)
    this.runner = new DeviceRunner({
      core: this.core,
      driver,
      demote: (blocks) => demotion.demote(blocks),
      kvChanged: (stored, removed) => index.changed(this.variant, stored, removed),
      trackPages: parts.tiers.length > 1,
      clock: parts.clock,
      log: parts.log,
      stepMs: limits.stepMs,
      onBroken: (error) => {
        // What goes wrong with a model on its way out says nothing of the device.
        if (!this.retiring) parts.onBroken(error)
      },
    })
    this.cache = new DeviceCache(deviceId, this, demotion)
  }

  get isRetiring(): boolean {
    return this.retiring
  }

  /** Bytes that it takes on the device: weights, and the pool whole. */
  get bytes(): number {
    const blocks = this.tiers.reduce((sum, tier) => sum + tier.blocks, 0)
    return this.residentBytes + blocks * this.model.poolBlockBytes
  }

  load(): CoreLoad {
    return this.runner.load()
  }

  /** What a refusal of its core means to a caller. */
  refusal(reason: Refusal): KvasirError {
    return refusalError(reason, this.who)
  }

  /** What the end of one of its sequences means to a caller. */
  ending(reason: EndReason): KvasirError {
    return endError(reason, this.who)
  }

  /** Refuses new work, lets what runs end by the deadline, forgets what is cached. Frees nothing in the driver. */
  async retire(deadlineMs: number): Promise<void> {
    const { log, index } = this.parts
    this.retiring = true
    const drained = withDeadline(
      this.runner.drain(deadlineMs),
      deadlineMs + RETIRE_GRACE_MS,
      `the end of all work with the model ${this.model.name}`,
    )
    await drained.catch((error: unknown) =>
      log.warn({ err: error }, 'a model is unloaded while it is in use'),
    )
    this.cache.close()
    index.changed(this.variant, [], [...this.core.storedHashes()])
  }

  private get who() {
    const { deviceId } = this.parts
    return this.retiring ? { deviceId, unloads: this.model.name } : { deviceId }
  }
}

/** As people write it. */
export function profileName(profile: Profile): string {
  return profile === Profile.PAPER ? 'paper' : 'exact'
}
