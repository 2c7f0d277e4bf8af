/**
 * Where an agent's further services are joined to it: those that its definition names.
 *
 * InferenceService and KvService are every agent's (serving-device.ts). Others, such as MemoryService or
 * CorpusService, come as factories in `DeviceDefinition.services`, beside the capability that tells of them.
 */
import type { RpcServerOptions } from '@kvasir/runtime/rpc-server'
import type { Device } from './device.js'
import type { AgentSettings } from './settings.js'

export type ServiceBinding = RpcServerOptions['services'][number]

/** One more thing that an agent does. */
export interface DeviceService {
  /** On the control endpoint. */
  readonly control?: readonly ServiceBinding[]
  /** On the KV endpoint, for what moves bulk data. */
  readonly kv?: readonly ServiceBinding[]
  /** What corpus shards may take and take here, for the advertisement and load reports. */
  corpusBytes?(): { readonly capacity: bigint; readonly used: bigint }
  /** Frees what it holds; called after the servers have closed. */
  close?(): Promise<void>
}

/** Called once, before the servers listen. */
export type DeviceServiceFactory = (device: Device, settings: AgentSettings) => DeviceService
