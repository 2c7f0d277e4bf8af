/**
 * One device in the cluster: a serving device, and what NATS knows of it.
 *
 * Invariants:
 * A1 The advertisement is in the bucket only while the device can serve: it is put after
 *    the servers listen, again every 3 s and at each reconnect, and deleted by a drain.
 * A2 NATS may be away at any time after the start; requests do not notice.
 * A3 A drain refuses new work and says so at once, then lets running work end.
 */
import {
  Advertisement,
  ControlRequest,
  ControlResponse,
  KvEvent,
  LoadReport,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import { type Bus, connectBus } from '@kvasir/runtime/bus'
import { type Clock, systemClock } from '@kvasir/runtime/clock'
import { InvalidInputError, type KvasirError, messageOf, UnsupportedError } from '@kvasir/runtime/errors'
import type { Running } from '@kvasir/runtime/lifecycle'
import type { Logger } from '@kvasir/runtime/log'
import { protocolSupported, SOFTWARE_VERSION } from '@kvasir/runtime/protocol'
import {
  BUCKET_TTL_MS,
  controlSubject,
  DEVICES_BUCKET,
  kvSubject,
  loadSubject,
  READVERTISE_MS,
} from '@kvasir/runtime/subjects'
import { startTelemetry } from '@kvasir/runtime/telemetry'
import { watchCoordinators } from './coordinators.js'
import type { DeviceDefinition } from './definition.js'
import type { Device } from './device.js'
import { watchHostTier } from './host-tier-peer.js'
import { hashBytes, type KvChange } from './kv-index.js'
import type { AgentLimits } from './limits.js'
import { basicMachine } from './machine.js'
import { loadOrder, unloadOrder } from './model-orders.js'
import { watchModelPeers } from './model-peers.js'
import { type ServingDevice, startServingDevice } from './serving-device.js'
import type { AgentSettings } from './settings.js'

const LOAD_REPORT_MS = 500

export interface AgentOptions {
  readonly log: Logger
  readonly clock?: Clock
  readonly limits?: Partial<AgentLimits>
  /** Somebody asked over NATS that the process drains and ends. */
  readonly onDrainRequest?: () => void
  /** The device can run no steps any more: the agent must end, so that nobody places work on it. */
  readonly onBroken?: (error: KvasirError) => void
}

export interface Agent extends Running {
  readonly deviceId: string
  readonly incarnation: bigint
  /** host:port of the control services, and of the KV transfers. */
  readonly control: string
  readonly kv: string
}

/** Resolves when the model is loaded and the device advertised. Throws a KvasirError that a person can act on. */
export async function startAgent(
  definition: DeviceDefinition,
  settings: AgentSettings,
  options: AgentOptions,
): Promise<Agent> {
  const { log, clock = systemClock } = options
  const { deviceId } = settings
  const bus = await connectBus({ url: settings.nats, name: `kvasir-agent ${deviceId}`, log })
  const coordinators = watchCoordinators(bus, clock)
  const machineId = (definition.machine ?? basicMachine()).id
  const hostTier = watchHostTier(bus, clock, { deviceId, machineId })
  const peers = watchModelPeers(bus, clock, { deviceId, machineId })
  const stopWatching = () => {
    coordinators.stop()
    hostTier.stop()
    peers.stop()
  }
  const telemetry = startTelemetry({
    service: `${definition.kind}-agent`,
    instance: deviceId,
    exporter: { otlpUrl: coordinators.otlpUrl },
  })
  let serving: ServingDevice
  // Of the models, once the device is advertised.
  let announce = () => {}
  try {
    serving = await startServingDevice({
      definition,
      settings,
      clock,
      log,
      ...(options.limits === undefined ? {} : { limits: options.limits }),
      onBroken: (error) => options.onBroken?.(error),
      onKvChange: (change) => publishKvChange(bus, serving.device, serving.nearestTier, change),
      hostTier: () => hostTier.find(),
      peers,
      onModelsChanged: () => announce(),
    })
  } catch (error) {
    stopWatching()
    await Promise.all([bus.close(), telemetry.close()])
    throw error
  }

  const devices = bus.bucket(DEVICES_BUCKET, { ttlMs: BUCKET_TTL_MS })
  let advertised = true
  const advertise = async () => {
    if (!advertised) return
    try {
      await devices.put(deviceId, Advertisement.toJSON(serving.advertisement()) as object)
    } catch (error) {
      log.warn({ err: error }, 'could not advertise; trying again')
    }
  }
  let reports = 0n
  const report = () => {
    reports += 1n
    bus.publish(loadSubject(deviceId), LoadReport.toJSON(serving.loadReport(reports)) as object)
  }
  const offStatus = bus.onStatus((connected) => {
    if (connected) void advertise().then(report)
  })
  let drainWithinMs = Number.POSITIVE_INFINITY
  bus.respond(controlSubject(deviceId), async (request) => {
    const { command, protocolVersion } = parseControl(request)
    const { incarnation } = serving.device
    const answer = (facts: Partial<ControlResponse> = {}) =>
      ControlResponse.toJSON({ deviceId, incarnation, error: '', ...facts }) as object
    if (!protocolSupported(protocolVersion)) {
      throw new UnsupportedError(`Device ${deviceId} does not speak protocol version ${protocolVersion}.`)
    }
    if (command === undefined) throw new InvalidInputError('ControlRequest.command is missing; set it.')
    if (command.$case === 'drain') {
      drainWithinMs = command.value.deadlineMs
      // The answer goes out first.
      setImmediate(() => options.onDrainRequest?.())
    }
    if (command.$case === 'evict') {
      const blocks = serving.device.holder.evict(command.value.drop)
      log.info({ blocks, drop: command.value.drop }, 'cached blocks were given up on request')
      return answer({ evictedBlocks: BigInt(blocks) })
    }
    if (command.$case === 'loadModel') await serving.load(loadOrder(command.value))
    if (command.$case === 'unloadModel') void serving.unload(unloadOrder(command.value))
    return answer()
  })
  await bus.service({
    name: 'kvasir-agent',
    version: SOFTWARE_VERSION,
    description: `Kvasir agent of ${definition.deviceModel}`,
    metadata: {
      deviceId,
      kind: definition.kind,
      incarnation: String(serving.device.incarnation),
      control: serving.control.address,
      kv: serving.kv.address,
    },
  })
  announce = () => void advertise().then(report)
  await advertise()
  report()
  const timers = [setInterval(() => void advertise(), READVERTISE_MS), setInterval(report, LOAD_REPORT_MS)]
  log.info({ control: serving.control.address, kv: serving.kv.address }, 'device is ready')

  let drained: Promise<void> | undefined
  const withdraw = async () => {
    advertised = false
    await devices.delete(deviceId).catch((error: unknown) => {
      log.warn(`could not withdraw the advertisement, it will expire: ${messageOf(error)}`)
    })
  }
  return {
    deviceId,
    incarnation: serving.device.incarnation,
    control: serving.control.address,
    kv: serving.kv.address,
    drain(deadlineMs) {
      drained ??= (async () => {
        const ended = serving.drain(Math.min(deadlineMs, drainWithinMs))
        report()
        await ended
        await withdraw()
      })()
      return drained
    },
    async close() {
      for (const timer of timers) clearInterval(timer)
      offStatus()
      stopWatching()
      if (advertised) await withdraw()
      await serving.close()
      await telemetry.close()
      await bus.close()
    },
  }
}

function publishKvChange(bus: Bus, device: Device, tier: string, change: KvChange): void {
  const { deviceId, incarnation } = device
  const { sequence, stored, removed, variant } = change
  const event: KvEvent = {
    deviceId,
    incarnation,
    sequence,
    stored: stored.map(hashBytes),
    removed: removed.map(hashBytes),
    variant,
    tier,
  }
  bus.publish(kvSubject(deviceId), KvEvent.toJSON(event) as object)
}

function parseControl(request: unknown): ControlRequest {
  if (typeof request !== 'object' || request === null) {
    throw new InvalidInputError('A control request must be a ControlRequest in protobuf JSON.')
  }
  return ControlRequest.fromJSON(request)
}
