/**
 * Where a device gets a model from: what is on this machine, what was fetched before, or an agent that has it.
 */
import type { DeviceDriver, ModelPlan } from '@kvasir/engine/device-driver'
import { type Numerics, numericsName } from '@kvasir/engine/numerics'
import type { LoadedModel } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Clock } from '@kvasir/runtime/clock'
import { deferred, withDeadline, withSignal } from '@kvasir/runtime/deferred'
import { InvalidInputError, KvasirError, NotFoundError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import type { WantedModel } from './model-arrival.js'
import { type ModelCache, modelName } from './model-cache.js'
import { fetchModel } from './model-fetch.js'
import type { ModelLibrary } from './model-library.js'
import type { ModelPeer, ModelPeers } from './model-peers.js'

/** How often the log tells how far a fetch is. */
const PROGRESS_MS = 5_000
/** Bytes of one parameter, at least. */
const PARAMETER_BYTES = { f32: 4, int4: 0.5 } as const
const DUMMY_PREFIX = 'dummy:'

/** A model that the driver can load. */
export interface FoundModel {
  /** As the driver takes it. */
  readonly spec: string
  readonly plan: ModelPlan
}

export interface FindHooks {
  readonly signal: AbortSignal
  /** The model is not here and will be fetched; may throw what is in its way. */
  expects(plan: Pick<ModelPlan, 'name' | 'digest' | 'weightBytes'>): void
  progress(bytes: number, bytesTotal: number, deviceId: string): void
}

export interface ModelSourceParts {
  readonly deviceId: string
  readonly device: Pick<DeviceDriver, 'inspectModel'>
  readonly cache: ModelCache
  readonly library: ModelLibrary
  /** Undefined where there is no cluster to ask. */
  readonly peers: ModelPeers | undefined
  readonly clock: Clock
  readonly log: Logger
}

export class ModelSource {
  /** Settles when the fetch before is over. */
  private fetched: Promise<unknown> = Promise.resolve()

  constructor(private readonly parts: ModelSourceParts) {}

  /** Throws NotFoundError where nobody has it, and what reading or fetching it comes to. */
  async find(wanted: WantedModel, numerics: Numerics, hooks: FindHooks): Promise<FoundModel> {
    const own = await this.findHere(wanted, numerics)
    if (!(own instanceof KvasirError)) return own
    if (wanted.model.startsWith(DUMMY_PREFIX)) throw own
    const kept = await this.findCached(wanted, numerics)
    if (kept !== undefined) return kept
    const peer = await this.peerWith(wanted, hooks.signal)
    if (peer === undefined) throw own
    const { name, digest } = peer.model
    hooks.expects({ name, digest, weightBytes: weightBytesOf(peer.model, numerics) })
    const turn = this.fetched.then(() => this.fetch({ name, digest }, hooks))
    this.fetched = turn.catch(() => {})
    const { spec } = await turn
    return { spec, plan: await this.parts.device.inspectModel({ model: spec, numerics }) }
  }

  /** It is served from now on, so others can have it too. */
  serving(spec: string, digest: string): void {
    this.parts.library.add(digest, spec)
  }

  servesNoMore(digest: string): void {
    this.parts.library.remove(digest)
  }

  /** Or why it is not here. Throws for one that is here and cannot be loaded. */
  private async findHere(
    { model, digest }: WantedModel,
    numerics: Numerics,
  ): Promise<FoundModel | KvasirError> {
    try {
      const plan = await this.parts.device.inspectModel({ model, numerics })
      if (digest === '' || plan.digest === digest) return { spec: model, plan }
      return new InvalidInputError(
        `The model ${model} has digest ${plan.digest.slice(0, 16)} here, and no agent serves it with digest ${digest.slice(0, 16)}; name another, or leave the digest out.`,
        { param: 'digest' },
      )
    } catch (error) {
      // Which generated models there are is all that is to be said: they are on no machine.
      if (!(error instanceof NotFoundError) || model.startsWith(DUMMY_PREFIX)) throw error
      const name = modelName(model)
      return new NotFoundError(
        `There is no model ${model} on the machine of device ${this.parts.deviceId}, and no agent of the cluster serves one named ${name}; name a folder, a GGUF file, or a model that an agent serves.`,
        { param: 'model', ids: { deviceId: this.parts.deviceId } },
      )
    }
  }

  private async findCached(
    { model, digest }: WantedModel,
    numerics: Numerics,
  ): Promise<FoundModel | undefined> {
    const { cache, device, log } = this.parts
    const kept = await cache.find(modelName(model), digest)
    if (kept === undefined) return undefined
    try {
      const plan = await device.inspectModel({ model: kept.spec, numerics })
      if (plan.digest === kept.digest) return { spec: kept.spec, plan }
    } catch (error) {
      log.warn({ err: error }, `the fetched model ${kept.name} cannot be read`)
    }
    log.warn(`the fetched model ${kept.name} was changed or damaged; it is fetched anew`)
    await cache.drop(kept.digest)
    return undefined
  }

  /** The nearest that serves it, waited for as long as whoever wants it is ready to. */
  private async peerWith(
    { model, digest, peersMs }: WantedModel,
    signal: AbortSignal,
  ): Promise<ModelPeer | undefined> {
    const { peers, log } = this.parts
    if (peers === undefined) return undefined
    const name = modelName(model)
    const find = () => peers.find(name, digest)[0]
    const [found] = [find()]
    if (found !== undefined) return found
    log.info(`model ${name} is not on this machine; looking for an agent that serves it`)
    const seen = deferred<ModelPeer>()
    const stop = peers.onChange(() => {
      const peer = find()
      if (peer !== undefined) seen.resolve(peer)
    })
    try {
      const peer = withDeadline(seen.promise, peersMs, 'an agent that serves the model')
      return await withSignal(peer, signal)
    } catch {
      signal.throwIfAborted()
      return undefined
    } finally {
      stop()
    }
  }

  private async fetch(model: { readonly name: string; readonly digest: string }, hooks: FindHooks) {
    const { clock, log } = this.parts
    hooks.signal.throwIfAborted()
    const beganMs = clock.nowMs()
    let toldMs = beganMs
    log.info({ model: model.name, digest: model.digest }, 'fetching a model')
    const fetched = await fetchModel({ ...this.parts, peers: this.peers() }, model, {
      signal: hooks.signal,
      progress(bytes, bytesTotal, deviceId) {
        hooks.progress(bytes, bytesTotal, deviceId)
        if (clock.nowMs() - toldMs < PROGRESS_MS) return
        toldMs = clock.nowMs()
        log.info({ model: model.name, bytes, bytesTotal, from: deviceId }, 'fetching a model')
      },
    })
    log.info(
      { model: model.name, folder: fetched.spec, durationMs: Math.round(clock.nowMs() - beganMs) },
      'model is fetched and verified',
    )
    return fetched
  }

  private peers(): ModelPeers {
    return this.parts.peers ?? { find: () => [], onChange: () => () => {} }
  }
}

/** At least so much, by what another device says of it. */
function weightBytesOf(
  { parameters, numerics: theirs, residentBytes }: LoadedModel,
  numerics: Numerics,
): number {
  const least = Number(parameters) * PARAMETER_BYTES[numerics.weights]
  return theirs === numericsName(numerics) ? Number(residentBytes ?? least) : least
}
