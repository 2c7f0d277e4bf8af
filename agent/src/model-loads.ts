/**
 * Loads models into a device and unloads them, while others are served.
 *
 * Invariants:
 * L1 At most ARRIVALS_MAX are on their way; the driver takes one in at a time, in the order in which they were found.
 * L2 A model counts in the memory from before it is loaded until the driver has let go of it.
 * L3 What fails leaves nothing behind but its sentence, for FAILED_KEPT_MS.
 */
import type { DeviceDriver, ModelPlan } from '@kvasir/engine/device-driver'
import { ArrivalPhase, type ModelArrival, type Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Clock } from '@kvasir/runtime/clock'
import { withDeadline, withSignal } from '@kvasir/runtime/deferred'
import {
  CancelledError,
  InvalidInputError,
  KvasirError,
  NotFoundError,
  OverloadedError,
  UnavailableError,
} from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import type { DeviceDefinition } from './definition.js'
import { poolBlocks, sizedTiers } from './device-tiers.js'
import { Arrival, type WantedModel } from './model-arrival.js'
import type { MemoryShare, ModelMemory } from './model-memory.js'
import type { FoundModel, ModelSource } from './model-source.js'
import { numericsOf, openModel } from './open-model.js'
import type { Pace } from './pace/pace.js'
import { type OpenedModel, profileName, type ServedModel } from './served-model.js'
import type { ServedModels } from './served-models.js'
import type { AgentSettings } from './settings.js'

const ARRIVALS_MAX = 8
/** A refusal within this time is the answer to the order; what takes longer, such as hashing weights, goes on behind it. */
const ACCEPT_MS = 10_000
/** How long what could not be loaded is told of. */
const FAILED_KEPT_MS = 60_000
/** Longest wait for the driver to let go of a model. */
const UNLOAD_MS = 30_000

export interface ModelLoadsParts {
  readonly deviceId: string
  readonly definition: Pick<DeviceDefinition, 'kind' | 'tiers' | 'paperNumerics'>
  readonly settings: AgentSettings
  readonly device: DeviceDriver
  readonly models: ServedModels
  readonly memory: ModelMemory
  readonly source: ModelSource
  /** Set where the device keeps the times of a catalogued one. */
  readonly pace: Pace | undefined
  /** Makes it one that is served. */
  readonly serve: (opened: OpenedModel) => ServedModel
  /** The set of models, or what is told of them, has changed. */
  readonly changed: () => void
  readonly clock: Clock
  readonly log: Logger
}

export interface UnwantedModel {
  readonly digest: string
  readonly profile: Profile
  /** Work that still runs then is ended. */
  readonly deadlineMs: number
}

export class ModelLoads {
  private readonly coming = new Set<Arrival>()
  private readonly failed: { readonly arrival: Arrival; readonly atMs: number }[] = []
  private readonly shares = new Map<ServedModel, MemoryShare>()
  private readonly leaving = new Map<ServedModel, Promise<void>>()
  /** Settles when the driver is free for the next. */
  private driverFree: Promise<unknown> = Promise.resolve()
  private closed: KvasirError | undefined

  constructor(private readonly parts: ModelLoadsParts) {}

  /**
   * Returns once the model is on its way, or served; `Arrival.served` tells the end. Throws what is known at once to
   * be in its way: OverloadedError where it does not fit or too many are coming, NotFoundError where nobody has it.
   */
  async begin(wanted: WantedModel): Promise<Arrival> {
    const { deviceId } = this.parts
    if (this.closed !== undefined) throw this.closed
    const same = [...this.coming].find((arrival) => !arrival.stop.signal.aborted && arrival.isFor(wanted))
    if (same !== undefined) return this.lookedAt(same)
    if (this.coming.size >= ARRIVALS_MAX) {
      throw new OverloadedError(
        `${this.coming.size} models are on their way to device ${deviceId} already; ask again when some are there.`,
        { ids: { deviceId } },
      )
    }
    const arrival = new Arrival(wanted)
    this.coming.add(arrival)
    let isAnswered = false
    void this.bring(arrival).then(
      () => arrival.served.resolve(),
      (thrown: unknown) => {
        const error = KvasirError.from(thrown)
        if (isAnswered || arrival.accepted.settled) this.keepFailure(arrival, error)
        arrival.accepted.reject(error)
        arrival.served.reject(error)
      },
    )
    await this.lookedAt(arrival)
    isAnswered = true
    return arrival
  }

  /** Begins; what it returns settles when the memory is free. Throws NotFoundError for a model that is not here. */
  unload(unwanted: UnwantedModel): Promise<void> {
    const { deviceId, models } = this.parts
    const { digest, profile, deadlineMs } = unwanted
    const served = models.find(digest, profile)
    if (served !== undefined) {
      const leaving = this.leaving.get(served) ?? this.retire(served, deadlineMs)
      this.leaving.set(served, leaving)
      return leaving
    }
    const arrivals = [...this.coming].filter(
      (arrival) => arrival.digest === digest && arrival.wanted.profile === profile,
    )
    if (arrivals.length === 0) {
      throw new NotFoundError(
        `Device ${deviceId} has no model with digest ${digest.slice(0, 16)} in profile ${profileName(profile)}; kvasir models lists those that it has.`,
        { ids: { deviceId } },
      )
    }
    for (const { stop } of arrivals) stop.abort(new CancelledError('The model is wanted no more.'))
    return Promise.resolve()
  }

  /** On their way, and for a while those that did not come. */
  arrivals(): ModelArrival[] {
    const nowMs = this.parts.clock.nowMs()
    while ((this.failed[0]?.atMs ?? nowMs) + FAILED_KEPT_MS < nowMs) this.failed.shift()
    return [...this.failed.map(({ arrival }) => arrival), ...this.coming].map((arrival) => arrival.message())
  }

  /** Ends what is on its way; nothing more is taken in. */
  close(): void {
    const { deviceId } = this.parts
    this.closed ??= new UnavailableError(`Device ${deviceId} is stopping; choose another.`, {
      ids: { deviceId },
    })
    for (const { stop } of this.coming) stop.abort(this.closed)
  }

  /** Throws what is known at once to be in its way. */
  private async lookedAt(arrival: Arrival): Promise<Arrival> {
    await withDeadline(arrival.accepted.promise, ACCEPT_MS, 'a look at the model').catch((error: unknown) => {
      if (arrival.accepted.settled) throw error
    })
    return arrival
  }

  private async bring(arrival: Arrival): Promise<void> {
    const { source, memory, settings, definition, models, pace, clock } = this.parts
    const { wanted, stop } = arrival
    const { profile } = wanted
    const numerics = numericsOf(definition, profile)
    const room = sizedTiers(definition, settings, wanted.kvBytes)
    const need = (plan: Pick<ModelPlan, 'name' | 'weightBytes'>, poolBytes: number) =>
      memory.take({
        name: plan.name,
        weights: numerics.weights,
        weightBytes: plan.weightBytes,
        poolBytes,
      })
    let share: MemoryShare | undefined
    try {
      const found = await source.find(wanted, numerics, {
        signal: stop.signal,
        expects(plan) {
          arrival.digest = plan.digest
          share = need(plan, 0)
          arrival.phase = ArrivalPhase.FETCHING
          arrival.fetching.resolve()
          arrival.accepted.resolve()
        },
        progress(bytes, bytesTotal, deviceId) {
          arrival.bytes = bytes
          arrival.bytesTotal = bytesTotal
          arrival.sourceDeviceId = deviceId
        },
      })
      const { plan } = found
      arrival.digest = plan.digest
      arrival.phase = ArrivalPhase.LOADING
      // One that is just being unloaded, or whose load was called off, comes back once it is gone.
      await withSignal(this.calledOff(plan.digest, profile), stop.signal)
      await withSignal(this.leavingOf(plan.digest, profile), stop.signal)
      const same = models.find(plan.digest, profile)
      if (same !== undefined) {
        this.checkName(plan.name, same)
        arrival.accepted.resolve()
        return
      }
      const tiers = pace?.sizedTiers(room, plan.poolBlockBytes) ?? room
      const poolBytes = poolBlocks(tiers, plan.poolBlockBytes, wanted.model) * plan.poolBlockBytes
      share?.free()
      share = need(plan, poolBytes)
      arrival.accepted.resolve()
      const sinceMs = clock.nowMs()
      const served = await this.inTurn(() => this.load(found, arrival, tiers))
      if (served === undefined) return
      this.shares.set(served, share)
      share = undefined
      this.parts.log.info(
        { model: plan.name, profile: profileName(profile), loadMs: Math.round(clock.nowMs() - sinceMs) },
        'model is served',
      )
    } finally {
      share?.free()
      this.coming.delete(arrival)
      this.parts.changed()
    }
  }

  /** Undefined where another order brought the same model meanwhile. */
  private async load(
    { spec, plan }: FoundModel,
    { wanted, stop }: Arrival,
    tiers: ReturnType<typeof sizedTiers>,
  ): Promise<ServedModel | undefined> {
    const { device, definition, models, source, pace, log } = this.parts
    const { profile } = wanted
    stop.signal.throwIfAborted()
    if (models.find(plan.digest, profile) !== undefined) return undefined
    const options = { model: spec, numerics: numericsOf(definition, profile) }
    const opened = await openModel(device, { options, profile, plan, tiers, pace }, log)
    if (stop.signal.aborted) {
      await opened.driver.unload()
      stop.signal.throwIfAborted()
    }
    const served = this.parts.serve(opened)
    models.add(served)
    source.serving(spec, plan.digest)
    return served
  }

  private async retire(served: ServedModel, deadlineMs: number): Promise<void> {
    const { models, log, source, changed } = this.parts
    const { name, digest } = served.model
    const facts = { model: name, digest, profile: profileName(served.profile) }
    log.info(facts, 'model is being unloaded')
    const retired = served.retire(deadlineMs)
    changed()
    await retired
    models.remove(served)
    if (models.all.every(({ model }) => model.digest !== digest)) source.servesNoMore(digest)
    try {
      await withDeadline(served.driver.unload(), UNLOAD_MS, 'the device to let go of a model')
      this.shares.get(served)?.free()
      this.shares.delete(served)
      log.info(facts, 'model is unloaded')
    } catch (error) {
      // Its memory stays counted, since nobody knows that it is free.
      log.error({ err: error, ...facts }, 'a model could not be unloaded')
    }
    this.leaving.delete(served)
    changed()
  }

  /** Settles when the driver has let go of the model, where it is about to. */
  private leavingOf(digest: string, profile: Profile): Promise<void> {
    const leaving = [...this.leaving].find(
      ([{ model, profile: own }]) => model.digest === digest && own === profile,
    )
    return leaving?.[1] ?? Promise.resolve()
  }

  /** Settles when the loads of the model that are wanted no more have given back what they took. */
  private async calledOff(digest: string, profile: Profile): Promise<void> {
    const ending = [...this.coming].filter(
      ({ digest: own, wanted, stop }) => stop.signal.aborted && own === digest && wanted.profile === profile,
    )
    await Promise.allSettled(ending.map(({ served }) => served.promise))
  }

  /** Whoever asked would wait for a name that never appears. */
  private checkName(name: string, { model }: ServedModel): void {
    if (model.name === name) return
    const { deviceId } = this.parts
    throw new InvalidInputError(
      `Device ${deviceId} has the model ${name} already, under the name ${model.name}: ask for that, or unload it first.`,
      { param: 'model', ids: { deviceId } },
    )
  }

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.driverFree.then(work)
    this.driverFree = result.catch(() => {})
    return result
  }

  private keepFailure(arrival: Arrival, error: KvasirError): void {
    const { log, clock, changed } = this.parts
    const { model, profile } = arrival.wanted
    if (error.code === 'cancelled') {
      log.info(`model ${model} in profile ${profileName(profile)} is wanted no more`)
    } else {
      log.warn({ code: error.code }, `model ${model} could not be loaded: ${error.message}`)
      arrival.phase = ArrivalPhase.FAILED
      arrival.error = error.message
      this.failed.push({ arrival, atMs: clock.nowMs() })
      if (this.failed.length > ARRIVALS_MAX) this.failed.shift()
    }
    changed()
  }
}
