/**
 * What the services of one agent share: the device, its model and its books.
 */
import type { DeviceDriver, DriverModel, LoadedModelFacts } from '@kvasir/engine/device-driver'
import { Capability, type KvVariant } from '@kvasir/proto/kvasir/capability/v1/capability'
import type { KvServiceClient, Lease } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { MemoryServiceClient } from '@kvasir/proto/kvasir/memory/v1/memory'
import type { Clock } from '@kvasir/runtime/clock'
import { UnsupportedError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import type { BlockHolder } from './block-holder.js'
import type { DeviceRunner } from './device-runner.js'
import type { KvIndex } from './kv-index.js'
import type { AgentLimits } from './limits.js'
import type { Pacer } from './pacer.js'
import type { TransferRegistry } from './transfer-registry.js'

/** A model and the device that runs it. */
export interface LoadedDevice {
  /** What the device can do without a model. */
  readonly device: DeviceDriver
  readonly driver: DriverModel
  readonly model: LoadedModelFacts
  readonly variant: KvVariant
  /** Bytes of one block over all layers in the device's pool. */
  readonly blockBytes: number
}

export interface Device {
  readonly deviceId: string
  readonly incarnation: bigint
  readonly capabilities: readonly Capability[]
  /** Undefined for an agent that only offers memory. */
  readonly loaded: LoadedDevice | undefined
  readonly runner: DeviceRunner
  readonly index: KvIndex
  /** Keeps full blocks for reuse. */
  readonly holder: BlockHolder
  readonly transfers: TransferRegistry
  readonly pacer: Pacer
  readonly limits: AgentLimits
  readonly clock: Clock
  readonly log: Logger
  /** This device's own KV endpoint, host:port. */
  kvEndpoint(): string
  /** The client for another device's KV endpoint. */
  kvClient(endpoint: string): KvServiceClient
  /** The client for another device's control endpoint, for attention. */
  attendClient(endpoint: string): MemoryServiceClient
}

const DOES: Partial<Record<Capability, string>> = {
  [Capability.PREFILL]: 'prefill',
  [Capability.DECODE]: 'decode',
  [Capability.ATTEND]: 'attend for others',
  [Capability.RETRIEVE]: 'search corpora',
}

/** Throws UnsupportedError where the device lacks the capability, or has no model. */
export function loadedDevice(device: Device, capability?: Capability): LoadedDevice {
  const { deviceId, capabilities, loaded } = device
  const able = capability === undefined || capabilities.includes(capability)
  if (able && loaded !== undefined) return loaded
  const what = capability === undefined ? 'run a model' : DOES[capability]
  const message = `Device ${deviceId} does not ${what}; choose one whose capabilities say so.`
  throw new UnsupportedError(message, { ids: { deviceId } })
}

export function leaseOf(device: Device, counter: bigint): Lease {
  const { deviceId, incarnation, limits } = device
  return { deviceId, incarnation, counter, ttlMs: limits.leaseTtlMs }
}
