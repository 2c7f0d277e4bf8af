/**
 * What the services of one agent share: the device, the models that it serves, and its books.
 */
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import { Capability, type Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Lease } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { MemoryServiceClient } from '@kvasir/proto/kvasir/memory/v1/memory'
import type { Clock } from '@kvasir/runtime/clock'
import { NotFoundError, UnsupportedError } from '@kvasir/runtime/errors'
import type { KvPullClient } from '@kvasir/runtime/kv-bulk'
import type { Logger } from '@kvasir/runtime/log'
import type { BlockHolder } from './block-holder.js'
import type { KvIndex } from './kv-index.js'
import type { AgentLimits } from './limits.js'
import type { Pacer } from './pacer.js'
import { refusalError } from './refusals.js'
import { profileName, type ServedModel } from './served-model.js'
import type { ServedModels } from './served-models.js'
import type { TransferRegistry } from './transfer-registry.js'

export interface Device {
  readonly deviceId: string
  readonly incarnation: bigint
  readonly capabilities: readonly Capability[]
  /** Undefined for an agent that only offers memory. */
  readonly driver: DeviceDriver | undefined
  readonly models: ServedModels
  readonly index: KvIndex
  /** Keeps full blocks for reuse. */
  readonly holder: BlockHolder
  readonly transfers: TransferRegistry
  readonly pacer: Pacer
  /** The other direction, for what comes from devices that hold themselves to no link; undefined: as it comes. */
  readonly arrivalPacer: Pacer | undefined
  /** Layers whose blocks are sent together where the receiver does not say. */
  readonly mergeLayers: number
  readonly limits: AgentLimits
  readonly clock: Clock
  readonly log: Logger
  /** This device's own KV endpoint, host:port. */
  kvEndpoint(): string
  /** The client for another device's KV endpoint. */
  kvClient(endpoint: string): KvPullClient
  /** The client for another device's control endpoint, for attention. */
  attendClient(endpoint: string): MemoryServiceClient
}

const DOES: Partial<Record<Capability, string>> = {
  [Capability.PREFILL]: 'prefill',
  [Capability.DECODE]: 'decode',
  [Capability.ATTEND]: 'attend for others',
  [Capability.RETRIEVE]: 'search corpora',
}

/** Throws UnsupportedError where the device lacks the capability, or is none. */
export function ableDriver({ deviceId, capabilities, driver }: Device, capability: Capability): DeviceDriver {
  if (capabilities.includes(capability) && driver !== undefined) return driver
  const message = `Device ${deviceId} does not ${DOES[capability]}; choose one whose capabilities say so.`
  throw new UnsupportedError(message, { ids: { deviceId } })
}

/** Throws NotFoundError where the device does not serve the model, UnsupportedError where it does in another profile. */
export function requestedModel(
  { deviceId, models }: Device,
  { modelDigest, profile }: { readonly modelDigest: string; readonly profile: Profile },
): ServedModel {
  const found = models.find(modelDigest, profile)
  if (found !== undefined) return found
  const ids = { deviceId }
  const other = models.all.find(({ model }) => model.digest === modelDigest)
  if (other !== undefined) {
    const { name } = other.model
    const wanted = profileName(profile)
    throw new UnsupportedError(
      `Device ${deviceId} computes ${name} in profile ${profileName(other.profile)} only; choose one that advertises it in ${wanted}, or load it: kvasir models load ${name} --device ${deviceId} --profile ${wanted}.`,
      { param: 'profile', ids },
    )
  }
  const names = models.all.map(({ model }) => model.name)
  const serves = names.length === 0 ? 'no model' : names.join(', ')
  throw new NotFoundError(
    `Device ${deviceId} has no model with digest ${modelDigest.slice(0, 16)} (it serves ${serves}); choose one that advertises it, or load it there.`,
    { param: 'model_digest', ids },
  )
}

/** Throws LeaseExpiredError where no model of this device issued the lease, or it has been unloaded since. */
export function modelOfLease({ deviceId, incarnation, models }: Device, lease: Lease): ServedModel {
  const who = { deviceId }
  if (lease.deviceId !== deviceId || lease.incarnation > incarnation) throw refusalError('lease-foreign', who)
  if (lease.incarnation < incarnation) throw refusalError('lease-older', who)
  const issuer = models.issuerOf(lease)
  if (issuer === undefined)
    throw refusalError(models.hadIssuerOf(lease) ? 'lease-ended' : 'lease-foreign', who)
  return issuer
}

export function leaseOf(device: Pick<Device, 'deviceId' | 'incarnation' | 'limits'>, counter: bigint): Lease {
  const { deviceId, incarnation, limits } = device
  return { deviceId, incarnation, counter, ttlMs: limits.leaseTtlMs }
}
