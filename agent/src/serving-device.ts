/**
 * A device that serves: its model loaded and measured, its core running, its two gRPC
 * servers listening. NATS is not its job, so that it runs without.
 */
import { availableParallelism } from 'node:os'
import { BLOCK_TOKENS, type DriverDescription, type LoadedModelFacts } from '@kvasir/engine/device-driver'
import {
  type Advertisement,
  type LoadReport,
  Precision,
  Profile,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import { InferenceServiceService } from '@kvasir/proto/kvasir/inference/v1/inference'
import { KvServiceService } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { Clock } from '@kvasir/runtime/clock'
import { InvalidInputError, type KvasirError } from '@kvasir/runtime/errors'
import { KvBulkService } from '@kvasir/runtime/kv-bulk'
import type { Logger } from '@kvasir/runtime/log'
import { PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, SOFTWARE_VERSION } from '@kvasir/runtime/protocol'
import { type RpcServer, type RpcServerOptions, startRpcServer } from '@kvasir/runtime/rpc-server'
import { type MeasuredRates, measureRates } from './calibration.js'
import { AgentCore } from './core/agent-core.js'
import type { DeviceDefinition } from './definition.js'
import type { Device, LoadedDevice } from './device.js'
import { DeviceRunner } from './device-runner.js'
import { newIncarnation } from './incarnation.js'
import { inferenceService } from './inference-service.js'
import { KvClients } from './kv-clients.js'
import { type KvChange, KvIndex } from './kv-index.js'
import { kvControlService, kvTransferService } from './kv-service.js'
import { AGENT_LIMITS, type AgentLimits } from './limits.js'
import { basicMachine } from './machine.js'
import { exactVariant } from './outgoing-transfer.js'
import { Pacer } from './pacer.js'
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
  const opened = await openDevice(options)
  const { loaded, rates, capacityBlocks, capacityBytes } = opened
  const decodeSlots = loaded === undefined ? 0 : (settings.decodeSlots ?? definition.decodeSlotsDefault)
  const { deviceId } = settings
  const core = new AgentCore({
    deviceId,
    incarnation,
    leaseTtlMs: limits.leaseTtlMs,
    capacityBlocks,
    decodeSlots,
    waitingMax: limits.waitingMax,
    contextTokensMax: loaded?.model.contextTokensMax ?? 0,
    limits: {
      rowsMax: Math.min(limits.rowsMax, loaded?.driver.describe().rowsMax ?? 0),
      chunkTokens: limits.chunkTokens,
      sharedChunkTokens: limits.sharedChunkTokens,
    },
  })
  const index = new KvIndex(loaded?.model.digest ?? '', (change) => options.onKvChange?.(change))
  const runner = new DeviceRunner({
    core,
    driver: loaded?.driver,
    index,
    clock,
    log,
    stepMs: limits.stepMs,
    onBroken: (error) => options.onBroken?.(error),
  })
  // An idle device runs no step that could fail.
  void loaded?.driver.lost.then((error) => options.onBroken?.(error))
  const clients = new KvClients()
  const device: Device = {
    deviceId,
    incarnation,
    capabilities: definition.capabilities,
    loaded,
    runner,
    index,
    transfers: new TransferRegistry(deviceId, limits.announceMs),
    pacer: new Pacer(settings.linkBytesPerSecond, clock),
    limits,
    clock,
    log,
    kvClient: (endpoint) => clients.get(endpoint),
  }
  const { host } = settings
  const servers: RpcServer[] = []
  const listen = async (port: number, services: RpcServerOptions['services']): Promise<RpcServer> => {
    try {
      const server = await startRpcServer({ host, port, services, log })
      servers.push(server)
      return server
    } catch (error) {
      await Promise.all(servers.map((server) => server.close()))
      await loaded?.driver.close()
      throw error
    }
  }
  const control = await listen(settings.controlPort, [
    { definition: InferenceServiceService, implementation: inferenceService(device) },
    { definition: KvServiceService, implementation: kvControlService(device) },
  ])
  const kv = await listen(settings.kvPort, [
    { definition: KvBulkService, implementation: kvTransferService(device) },
  ])
  const ticking = setInterval(() => runner.apply({ type: 'tick' }), TICK_MS)

  return {
    device,
    control,
    kv,
    advertisement: () => ({
      deviceId,
      incarnation,
      protocolVersion: PROTOCOL_VERSION,
      protocolVersionMin: PROTOCOL_VERSION_MIN,
      kind: definition.kind,
      deviceModel: definition.deviceModel,
      machine: definition.machine ?? basicMachine(),
      capabilities: [...definition.capabilities],
      tiers: [{ ...definition.tier, capacityBytes, bandwidthBytesPerSecond: rates.bytesPerSecond }],
      compute:
        loaded === undefined ? [] : [{ precision: Precision.F32, peakOpsPerSecond: rates.opsPerSecond }],
      kernels: loaded?.driver.describe().kernels.map(kernelMessage) ?? [],
      models: loaded === undefined ? [] : [loadedModel(loaded.model)],
      decodeSlots,
      link: { class: definition.linkClass, bytesPerSecond: settings.linkBytesPerSecond, latencyUs: 0 },
      idleWatts: 0,
      maxWatts: 0,
      priceDollars: 0,
      endpoints: { control: control.address, kv: kv.address },
      modelled: settings.linkBytesPerSecond > 0,
      softwareVersion: SOFTWARE_VERSION,
      processId: process.pid,
    }),
    loadReport(sequence) {
      const load = runner.load()
      const leasedBytes = BigInt(load.usedBlocks) * BigInt(loaded?.blockBytes ?? 0)
      return {
        deviceId,
        incarnation,
        sequence,
        decodeSlotsUsed: load.decodeSlotsUsed,
        prefillTokensWaiting: BigInt(load.prefillTokensWaiting),
        tiers: [{ name: definition.tier.name, leasedBytes, capacityBytes }],
        leases: load.leases,
        draining: load.draining,
        lastStepUs: BigInt(Math.round(runner.lastStepUs)),
      }
    },
    async drain(deadlineMs) {
      await runner.drain(Math.max(0, deadlineMs - CALLS_END_MS))
      await Promise.all([control.drain(CALLS_END_MS), kv.drain(CALLS_END_MS)])
    },
    async close() {
      clearInterval(ticking)
      await Promise.all([control.close(), kv.close()])
      clients.close()
      await loaded?.driver.close()
    },
  }
}

interface OpenedDevice {
  readonly loaded: LoadedDevice | undefined
  readonly rates: MeasuredRates
  readonly capacityBlocks: number
  /** Bytes that may hold KV blocks: whole blocks only. */
  readonly capacityBytes: bigint
}

async function openDevice({ definition, settings, log }: ServingOptions): Promise<OpenedDevice> {
  const { driver: factory } = definition
  if (factory === undefined) {
    const rates = { opsPerSecond: 0, bytesPerSecond: 0 }
    return { loaded: undefined, rates, capacityBlocks: 0, capacityBytes: BigInt(settings.tierBytes) }
  }
  const blockBytes = await factory.blockBytes(settings.model)
  const capacityBlocks = Math.floor(settings.tierBytes / blockBytes)
  if (capacityBlocks < 1) {
    throw new InvalidInputError(
      `A tier of ${settings.tierBytes} bytes holds no KV block of the model ${settings.model}; set tierBytes to at least ${blockBytes}.`,
      { param: 'tierBytes' },
    )
  }
  const driver = factory.create(settings.threads === undefined ? {} : { threads: settings.threads })
  try {
    const model = await driver.loadModel({ model: settings.model, kvBlocksMax: capacityBlocks })
    const rates = await measureRates(driver, model, capacityBlocks)
    log.info(
      { model: model.name, digest: model.digest, capacityBlocks, cores: availableParallelism(), ...rates },
      'model loaded and measured',
    )
    const loaded = { driver, model, variant: exactVariant(model.layers), blockBytes }
    return { loaded, rates, capacityBlocks, capacityBytes: BigInt(capacityBlocks) * BigInt(blockBytes) }
  } catch (error) {
    await driver.close()
    throw error
  }
}

function kernelMessage({
  name,
  version,
  limits,
}: DriverDescription['kernels'][number]): Advertisement['kernels'][number] {
  const wide = Object.entries(limits).map(([limit, value]) => [limit, BigInt(value)])
  return { name, version, limits: Object.fromEntries(wide) }
}

function loadedModel(model: LoadedModelFacts): Advertisement['models'][number] {
  return {
    name: model.name,
    digest: model.digest,
    profile: Profile.EXACT,
    variant: exactVariant(model.layers),
    contextTokensMax: model.contextTokensMax,
    kvBytesPerToken: BigInt((model.layers * model.blockLayerBytes) / BLOCK_TOKENS),
    layers: { first: 0, count: model.layers },
    parameters: BigInt(model.parameters),
    weightBytes: BigInt(model.weightBytes),
  }
}
