/**
 * A device that serves: its model loaded and measured, its core running, its two gRPC
 * servers listening. NATS is not its job, so that it runs without.
 */
import type { Advertisement, LoadReport } from '@kvasir/proto/kvasir/capability/v1/capability'
import { InferenceServiceService } from '@kvasir/proto/kvasir/inference/v1/inference'
import { KvServiceService } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { Clock } from '@kvasir/runtime/clock'
import { InternalError, type KvasirError } from '@kvasir/runtime/errors'
import { KvBulkService } from '@kvasir/runtime/kv-bulk'
import type { Logger } from '@kvasir/runtime/log'
import { callUnary } from '@kvasir/runtime/rpc-client'
import { type RpcServer, startRpcServer } from '@kvasir/runtime/rpc-server'
import { type AdvertisedDevice, advertisementOf, loadReportOf } from './advertisement.js'
import type { BlockHolder } from './block-holder.js'
import { AgentCore } from './core/agent-core.js'
import type { DeviceDefinition } from './definition.js'
import { Demotion } from './demotion.js'
import type { Device, LoadedDevice } from './device.js'
import { DeviceCache } from './device-cache.js'
import { DeviceRunner } from './device-runner.js'
import { attendClient, bulkClient, EndpointClients, offerClient } from './endpoint-clients.js'
import type { TierPeer } from './host-tier-peer.js'
import { newIncarnation } from './incarnation.js'
import { inferenceService } from './inference-service.js'
import { type KvChange, KvIndex } from './kv-index.js'
import { kvControlService, kvTransferService } from './kv-service.js'
import { AGENT_LIMITS, type AgentLimits } from './limits.js'
import { type OpenedDevice, openDevice } from './open-device.js'
import { Pacer } from './pacer.js'
import type { ServiceBinding } from './services.js'
import type { AgentSettings } from './settings.js'
import { TransferRegistry } from './transfer-registry.js'

/** How often leases are looked at for their end. */
const TICK_MS = 100
/** Time that calls get to end after their sequences have. */
const CALLS_END_MS = 500

export interface ServingOptions {
  readonly definition: DeviceDefinition
  readonly settings: AgentSettings
  readonly limits?: Partial<AgentLimits>
  readonly clock: Clock
  readonly log: Logger
  /** Hears of changes in the set of full blocks. */
  readonly onKvChange?: (change: KvChange) => void
  /** The device can run no steps any more. */
  readonly onBroken?: (error: KvasirError) => void
  /** The host tier of the same machine, where there is one now. */
  readonly hostTier?: () => TierPeer | undefined
}

export interface ServingDevice {
  readonly device: Device
  readonly control: RpcServer
  readonly kv: RpcServer
  advertisement(): Advertisement
  loadReport(sequence: bigint): LoadReport
  /** Refuses new work, lets what runs end by the deadline. */
  drain(deadlineMs: number): Promise<void>
  close(): Promise<void>
}

export async function startServingDevice(options: ServingOptions): Promise<ServingDevice> {
  const { definition, settings, clock, log } = options
  const limits = { ...AGENT_LIMITS, ...options.limits }
  const incarnation = newIncarnation(clock.wallMs())
  const opened = await openDevice(definition, settings, log)
  const { loaded } = opened
  const { deviceId, host } = settings
  const decodeSlots = loaded === undefined ? 0 : (settings.decodeSlots ?? definition.decodeSlotsDefault)
  const onBroken = (error: KvasirError) => options.onBroken?.(error)
  // An idle device runs no step that could fail.
  void loaded?.device.lost.then(onBroken)

  const core = new AgentCore({
    deviceId,
    incarnation,
    leaseTtlMs: limits.leaseTtlMs,
    tiers: coreTiers(opened),
    blockBytes: loaded?.blockBytes ?? 0,
    tierPolicy: settings.tierPolicy,
    decodeSlots,
    waitingMax: limits.waitingMax,
    contextTokensMax: loaded?.model.contextTokensMax ?? 0,
    limits: {
      rowsMax: Math.min(limits.rowsMax, loaded?.device.describe().rowsMax ?? 0),
      chunkTokens: limits.chunkTokens,
      sharedChunkTokens: limits.sharedChunkTokens,
    },
  })
  const index = new KvIndex((change) => options.onKvChange?.(change))
  const bulk = new EndpointClients(bulkClient)
  const offers = new EndpointClients(offerClient)
  const attends = new EndpointClients(attendClient)
  const kvClient = (endpoint: string) => bulk.get(endpoint)
  const servers: RpcServer[] = []
  const listen = async (port: number, services: readonly ServiceBinding[]): Promise<RpcServer> => {
    const server = await startRpcServer({ host, port, services, log })
    servers.push(server)
    return server
  }

  // Known once it listens, before which nobody can ask for it.
  const kvEndpoint = () => servers[1]?.address ?? ''
  const demotion = (device: LoadedDevice) =>
    new Demotion({
      deviceId,
      loaded: device,
      limits,
      clock,
      log,
      kvEndpoint,
      hostTier: () => options.hostTier?.(),
      async offer({ control }, offer) {
        const { offerMs: timeoutMs } = limits
        return (await callUnary(offers.get(control), 'offer', offer, { timeoutMs })).wanted
      },
    })
  const leaving = loaded === undefined ? undefined : demotion(loaded)
  const runner = new DeviceRunner({
    core,
    driver: loaded?.driver,
    demote: (blocks) => leaving?.demote(blocks),
    kvChanged: (stored, removed) => {
      if (loaded !== undefined) index.changed(loaded.variant, stored, removed)
    },
    trackPages: opened.tiers.length > 1,
    clock,
    log,
    stepMs: limits.stepMs,
    onBroken,
  })
  const holder = (): BlockHolder => {
    if (loaded !== undefined && leaving !== undefined)
      return new DeviceCache(deviceId, loaded, runner, leaving)
    const parts = { deviceId, incarnation, settings, index, limits, clock, log, kvClient }
    if (definition.memory !== undefined) return definition.memory(parts)
    throw new InternalError(`A device of kind ${definition.kind} has neither a driver nor memory.`)
  }
  const device: Device = {
    deviceId,
    incarnation,
    capabilities: definition.capabilities,
    loaded,
    runner,
    index,
    holder: holder(),
    transfers: new TransferRegistry(deviceId, limits.announceMs),
    pacer: new Pacer(settings.linkBytesPerSecond, clock),
    limits,
    clock,
    log,
    kvEndpoint,
    kvClient,
    attendClient: (endpoint) => attends.get(endpoint),
  }
  const services = (definition.services ?? []).map((service) => service(device, settings))
  const advertised: AdvertisedDevice = { definition, settings, device, opened, services, decodeSlots }
  const closeAll = async () => {
    await Promise.all(servers.map((server) => server.close()))
    await Promise.all(services.map((service) => service.close?.()))
    device.holder.close()
    for (const clients of [bulk, offers, attends]) clients.close()
    await loaded?.device.close()
  }

  const listenAll = async (): Promise<[control: RpcServer, kv: RpcServer]> => {
    try {
      const control = await listen(settings.controlPort, [
        { definition: InferenceServiceService, implementation: inferenceService(device) },
        { definition: KvServiceService, implementation: kvControlService(device) },
        ...services.flatMap((service) => service.control ?? []),
      ])
      const kv = await listen(settings.kvPort, [
        { definition: KvBulkService, implementation: kvTransferService(device) },
        ...services.flatMap((service) => service.kv ?? []),
      ])
      return [control, kv]
    } catch (error) {
      await closeAll()
      throw error
    }
  }
  const [control, kv] = await listenAll()
  const ticking = setInterval(() => runner.apply({ type: 'tick' }), TICK_MS)

  return {
    device,
    control,
    kv,
    advertisement: () => advertisementOf(advertised, { control: control.address, kv: kv.address }),
    loadReport: (sequence) => loadReportOf(advertised, sequence),
    async drain(deadlineMs) {
      await runner.drain(Math.max(0, deadlineMs - CALLS_END_MS))
      await Promise.all([control.drain(CALLS_END_MS), kv.drain(CALLS_END_MS)])
    },
    async close() {
      clearInterval(ticking)
      await closeAll()
    },
  }
}

/** The core manages the memory of a device; that of an agent without one is its holder's. */
function coreTiers({ loaded, tiers }: OpenedDevice) {
  if (loaded === undefined) return []
  return tiers.map(({ definition, blocks, bytesPerSecond }) => ({
    name: definition.name,
    blocks,
    bytesPerSecond,
  }))
}
