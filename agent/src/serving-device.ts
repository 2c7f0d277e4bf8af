/**
 * A device that serves: its models loaded and measured, each with its own core, its two gRPC
 * servers listening. NATS is not its job, so that it runs without.
 */
import { join } from 'node:path'
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import { type Advertisement, type LoadReport, Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import { InferenceServiceService } from '@kvasir/proto/kvasir/inference/v1/inference'
import { KvServiceService } from '@kvasir/proto/kvasir/kv/v1/kv'
import { startBulkServer } from '@kvasir/runtime/bulk-server'
import type { Clock } from '@kvasir/runtime/clock'
import { InternalError, KvasirError, UnsupportedError } from '@kvasir/runtime/errors'
import { KvBulkService } from '@kvasir/runtime/kv-bulk'
import type { Logger } from '@kvasir/runtime/log'
import { callUnary } from '@kvasir/runtime/rpc-client'
import { type RpcServer, startRpcServer } from '@kvasir/runtime/rpc-server'
import { cacheFolder } from '@kvasir/runtime/state-folder'
import { type AdvertisedDevice, advertisementOf, loadReportOf } from './advertisement.js'
import type { BlockHolder } from './block-holder.js'
import { measureCopyRate } from './calibration.js'
import { capabilitiesOf } from './capabilities.js'
import { stagingBytes } from './core/shared-bounds.js'
import type { DeviceDefinition } from './definition.js'
import { Demotion, type StagingRoom } from './demotion.js'
import type { Device } from './device.js'
import { DeviceBlocks } from './device-blocks.js'
import { sizedTiers } from './device-tiers.js'
import { attendClient, bulkClient, EndpointClients, offerClient } from './endpoint-clients.js'
import type { TierPeer } from './host-tier-peer.js'
import { newIncarnation } from './incarnation.js'
import { inferenceService } from './inference-service.js'
import { type KvChange, KvIndex } from './kv-index.js'
import { kvControlService, kvTransferService } from './kv-service.js'
import { AGENT_LIMITS, type AgentLimits } from './limits.js'
import { modelBytesDefault } from './machine-memory.js'
import type { Arrival, WantedModel } from './model-arrival.js'
import { ModelCache } from './model-cache.js'
import { ModelLibrary } from './model-library.js'
import { ModelLoads, type UnwantedModel } from './model-loads.js'
import { ModelMemory } from './model-memory.js'
import type { ModelPeers } from './model-peers.js'
import { modelService } from './model-service.js'
import { ModelSource } from './model-source.js'
import { choosePace } from './pace/choose-pace.js'
import { Pace, pacedDefinition } from './pace/pace.js'
import { Pacer } from './pacer.js'
import { type DemotingModel, type OpenedModel, ServedModel } from './served-model.js'
import { ServedModels } from './served-models.js'
import type { ServiceBinding } from './services.js'
import type { AgentSettings } from './settings.js'
import { openDriver } from './socket-driver/open-driver.js'
import { TransferRegistry } from './transfer-registry.js'

/** How often leases are looked at for their end. */
const TICK_MS = 100
/** Time that calls get to end after their sequences have. */
const CALLS_END_MS = 500
/** The agent that has the first model may start at the same time. */
const FIRST_PEERS_MS = 30_000

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
  /** The set of models, or what is told of them, has changed. */
  readonly onModelsChanged?: () => void
  /** Agents whose models can be fetched. */
  readonly peers?: ModelPeers
  /** The host tier of the same machine, where there is one now. */
  readonly hostTier?: () => TierPeer | undefined
}

export interface ServingDevice {
  readonly device: Device
  /** Name of the tier in which new blocks are. */
  readonly nearestTier: string
  readonly control: RpcServer
  readonly kv: RpcServer
  advertisement(): Advertisement
  loadReport(sequence: bigint): LoadReport
  /** As `ModelLoads.begin`. Throws UnsupportedError where the device runs no models. */
  load(wanted: WantedModel): Promise<Arrival>
  /** As `ModelLoads.unload`. */
  unload(unwanted: UnwantedModel): Promise<void>
  /** Refuses new work, lets what runs end by the deadline. */
  drain(deadlineMs: number): Promise<void>
  close(): Promise<void>
}

/** Throws what keeps the device or its first model from being served. */
export async function startServingDevice(options: ServingOptions): Promise<ServingDevice> {
  const { settings, clock, log } = options
  const limits = { ...AGENT_LIMITS, ...options.limits }
  const incarnation = newIncarnation(clock.wallMs())
  const { deviceId, host } = settings
  const chosen = await choosePace(settings)
  const pace = chosen && new Pace(chosen, clock)
  const definition = pace === undefined ? options.definition : pacedDefinition(options.definition, pace)
  const tiers = sizedTiers(definition, settings)
  const driver = await openDriver(definition, settings)
  const decodeSlots = driver === undefined ? 0 : (settings.decodeSlots ?? definition.decodeSlotsDefault)
  const onBroken = (error: KvasirError) => options.onBroken?.(error)
  // An idle device runs no step that could fail.
  void driver?.lost.then(onBroken)

  const models = new ServedModels()
  const index = new KvIndex((change) => options.onKvChange?.(change))
  const bulk = new EndpointClients(bulkClient)
  const offers = new EndpointClients(offerClient)
  const attends = new EndpointClients(attendClient)
  const kvClient = (endpoint: string) => bulk.get(endpoint)
  const servers: RpcServer[] = []
  const listen = async (
    start: typeof startRpcServer,
    port: number,
    services: readonly ServiceBinding[],
  ): Promise<RpcServer> => {
    const server = await start({ host, port, services, log })
    servers.push(server)
    return server
  }

  // Known once it listens, before which nobody can ask for it.
  const kvEndpoint = () => servers[1]?.address ?? ''
  const cacheBytes = tiers.reduce((sum, { bytes }) => sum + bytes, 0)
  const room: StagingRoom = { bytesMax: stagingBytes(cacheBytes, limits), bytesUsed: 0 }
  const demotion = (served: DemotingModel) =>
    new Demotion({
      deviceId,
      served,
      room,
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
  const holder = (): BlockHolder => {
    if (driver !== undefined) return new DeviceBlocks(deviceId, models)
    const parts = { deviceId, incarnation, settings, index, limits, clock, log, kvClient }
    if (definition.memory !== undefined) return definition.memory(parts)
    throw new InternalError(`A device of kind ${definition.kind} has neither a driver nor memory.`)
  }
  const device: Device = {
    deviceId,
    incarnation,
    capabilities: capabilitiesOf(definition.capabilities, driver),
    driver,
    models,
    index,
    holder: holder(),
    transfers: new TransferRegistry(deviceId, limits.announceMs),
    pacer: new Pacer(pace?.link.bytesPerSecond ?? settings.linkBytesPerSecond, clock),
    arrivalPacer: pace && new Pacer(pace.link.bytesPerSecond, clock),
    mergeLayers: settings.mergeLayers,
    limits,
    clock,
    log,
    kvEndpoint,
    kvClient,
    attendClient: (endpoint) => attends.get(endpoint),
  }
  const library = new ModelLibrary(log)
  const loadsOf = (runs: DeviceDriver) => {
    const cache = new ModelCache(settings.modelCacheDir ?? join(cacheFolder(), 'models'), log)
    const memory = new ModelMemory(deviceId, settings.modelBytes ?? modelBytesDefault())
    const serve = (opened: OpenedModel) =>
      new ServedModel({
        ...opened,
        ...{ deviceId, incarnation, place: models.nextPlace(), device: runs, decodeSlots },
        ...{ tierPolicy: settings.tierPolicy, limits, index, clock, log, onBroken, demotion },
      })
    const loads = new ModelLoads({
      ...{ deviceId, definition, settings, device: runs, models, memory, pace, serve, clock, log },
      source: new ModelSource({ deviceId, device: runs, cache, library, peers: options.peers, clock, log }),
      changed: () => options.onModelsChanged?.(),
    })
    return { memory, loads }
  }
  const { memory, loads } = driver === undefined ? {} : loadsOf(driver)
  const services = (definition.services ?? []).map((service) => service(device, settings))
  const advertised: AdvertisedDevice = {
    ...{ definition, settings, device, tiers, services, decodeSlots, memory, pace },
    copyBytesPerSecond: measureCopyRate(),
  }
  const closeAll = async () => {
    loads?.close()
    await Promise.all(servers.map((server) => server.close()))
    await Promise.all(services.map((service) => service.close?.()))
    device.holder.close()
    for (const clients of [bulk, offers, attends]) clients.close()
    await driver?.close()
  }
  const load = (wanted: WantedModel): Promise<Arrival> => modelLoads().begin(wanted)
  const modelLoads = (): ModelLoads => {
    if (loads !== undefined) return loads
    throw new UnsupportedError(`Device ${deviceId} runs no models; choose one that does.`, {
      ids: { deviceId },
    })
  }

  const listenAll = async (): Promise<[control: RpcServer, kv: RpcServer]> => {
    try {
      const control = await listen(startRpcServer, settings.controlPort, [
        { definition: InferenceServiceService, implementation: inferenceService(device) },
        { definition: KvServiceService, implementation: kvControlService(device) },
        ...services.flatMap((service) => service.control ?? []),
      ])
      const kv = await listen(startBulkServer, settings.kvPort, [
        { definition: KvBulkService, implementation: kvTransferService(device) },
        ...(loads === undefined ? [] : [modelService(deviceId, library, device.pacer)]),
        ...services.flatMap((service) => service.kv ?? []),
      ])
      if (settings.model !== undefined && loads !== undefined) {
        await firstModelServed(await load(firstModel(settings.model, settings)), onBroken)
      }
      return [control, kv]
    } catch (error) {
      await closeAll()
      throw error
    }
  }
  const [control, kv] = await listenAll()
  const ticking = setInterval(() => {
    for (const { runner } of models.all) runner.apply({ type: 'tick' })
  }, TICK_MS)
  let draining = false

  return {
    device,
    nearestTier: definition.tiers[0].name,
    control,
    kv,
    advertisement: () => advertisementOf(advertised, { control: control.address, kv: kv.address }),
    loadReport: (sequence) =>
      loadReportOf(advertised, { sequence, draining, arrivals: loads?.arrivals() ?? [] }),
    load,
    unload: (unwanted) => modelLoads().unload(unwanted),
    async drain(deadlineMs) {
      draining = true
      loads?.close()
      const workMs = Math.max(0, deadlineMs - CALLS_END_MS)
      await Promise.all(models.all.map(({ runner }) => runner.drain(workMs)))
      await Promise.all([control.drain(CALLS_END_MS), kv.drain(CALLS_END_MS)])
    },
    async close() {
      clearInterval(ticking)
      await closeAll()
    },
  }
}

function firstModel(model: string, { profile }: AgentSettings): WantedModel {
  return {
    model,
    digest: '',
    profile: profile === 'paper' ? Profile.PAPER : Profile.EXACT,
    kvBytes: undefined,
    peersMs: FIRST_PEERS_MS,
  }
}

/**
 * A model on this machine is served before the device is. One that has to be fetched is waited for by nobody, so that
 * its progress can be seen; if it does not come, the device is as good as broken.
 */
async function firstModelServed(arrival: Arrival, onBroken: (error: KvasirError) => void): Promise<void> {
  const isFetched = arrival.fetching.promise.then(() => true)
  if (!(await Promise.race([arrival.served.promise.then(() => false), isFetched]))) return
  arrival.served.promise.catch((error: unknown) => onBroken(KvasirError.from(error)))
}
