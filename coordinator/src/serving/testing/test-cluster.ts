/**
 * A serving side with fake devices and its own nats-server, all in this process, and
 * what tests ask of it.
 */
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import { type Bus, connectBus } from '@kvasir/runtime/bus'
import { systemClock } from '@kvasir/runtime/clock'
import { delay } from '@kvasir/runtime/deferred'
import { createLogger } from '@kvasir/runtime/log'
import type { TestNatsServer } from '@kvasir/runtime/testing/nats-server'
import { promptHashes } from '../../gateway/prompt-hashes.js'
import type { Generation, GenerationRequest } from '../../generation.js'
import { createServing, type Serving, type ServingOptions } from '../serving.js'
import type { FakePeers } from './fake-blocks.js'
import { FAKE_MODEL, FakeDevice, type FakeDeviceOptions, type FakeTransfers } from './fake-device.js'

export const GPU: readonly Capability[] = [Capability.PREFILL, Capability.DECODE]
export const FPGA: readonly Capability[] = [Capability.DECODE, Capability.PREFILL]
export const HOST: readonly Capability[] = [Capability.KV_TIER]

export type DeviceWish = Pick<
  FakeDeviceOptions,
  'deviceId' | 'capabilities' | 'decodeSlots' | 'stepMs' | 'models'
>

export interface TestCluster {
  readonly serving: Serving
  readonly transfers: FakeTransfers
  /** Starts a device and waits until it is ready to be chosen. */
  device(options: DeviceWish): Promise<FakeDevice>
  close(): Promise<void>
}

export async function startTestCluster(
  nats: TestNatsServer,
  options: Partial<ServingOptions> = {},
): Promise<TestCluster> {
  const bus: Bus = await connectBus({ url: nats.url, name: 'test-coordinator' })
  const log = createLogger({ service: 'test-coordinator', terminal: false })
  const serving = createServing({
    bus,
    clock: systemClock,
    log,
    coordinatorId: 'coordinator-test',
    ...options,
  })
  const transfers: FakeTransfers = new Map()
  const peers: FakePeers = new Map()
  const devices: FakeDevice[] = []
  return {
    serving,
    transfers,
    async device(wish) {
      incarnations += 1n
      const incarnation = incarnations
      const device = await new FakeDevice({
        natsUrl: nats.url,
        transfers,
        peers,
        incarnation,
        ...wish,
      }).start()
      devices.push(device)
      await until(`${wish.deviceId} is ready`, () =>
        serving
          .cluster()
          .devices.some(
            (report) =>
              report.deviceId === wish.deviceId &&
              report.incarnation === String(incarnation) &&
              report.state === 'ready',
          ),
      )
      return device
    },
    async close() {
      await serving.close()
      await Promise.all(devices.map((device) => device.kill()))
      await bus.close()
    },
  }
}

/** Never the same twice on one nats-server, as in life. */
let incarnations = 0n
let requestCount = 0

export function testRequest(wish: Partial<GenerationRequest> = {}): GenerationRequest {
  requestCount += 1
  const { promptTokens = [1, 2, 3, 4, 5], tenantSalt = new Uint8Array() } = wish
  return {
    requestId: `request-${requestCount}`,
    model: FAKE_MODEL.name,
    modelDigest: FAKE_MODEL.digest,
    profile: 'exact',
    promptTokens,
    maxTokens: 8,
    sampling: {
      temperature: 0,
      topP: 1,
      topK: 0,
      seed: 1n,
      stopTokens: [],
      topLogprobs: 0,
      logprobs: false,
    },
    tenantSalt,
    blockHashes: promptHashes(FAKE_MODEL.digest, tenantSalt, promptTokens),
    reusePrefix: true,
    attention: undefined,
    retrieval: null,
    ...wish,
  }
}

export interface Gathered {
  readonly ids: number[]
  reason: string | null
}

/** Reads a generation to its end. `onToken` is called with the count so far. */
export async function gather(
  generation: Generation,
  onToken: (count: number) => void = () => {},
): Promise<Gathered> {
  const gathered: Gathered = { ids: [], reason: null }
  for await (const event of generation.events) {
    if (event.type === 'finished') {
      gathered.reason = event.reason
    } else {
      for (const { id, index } of event.tokens) {
        if (index !== gathered.ids.length) throw new Error(`Token ${index} came out of order.`)
        gathered.ids.push(id)
      }
      onToken(gathered.ids.length)
    }
  }
  return gathered
}

/** Waits until `holds`, at most 5 s. */
export async function until(what: string, holds: () => boolean, withinMs = 5_000): Promise<void> {
  const endMs = performance.now() + withinMs
  while (!holds()) {
    if (performance.now() > endMs)
      throw new Error(`It did not come about within ${withinMs} ms that ${what}.`)
    await delay(5)
  }
}

/** One GPU and two FPGAs, as the local cluster has. */
export async function startDefaultDevices(
  cluster: TestCluster,
): Promise<{ gpu: FakeDevice; fpgas: FakeDevice[] }> {
  const [gpu, ...fpgas] = await Promise.all([
    cluster.device({ deviceId: 'gpu-0', capabilities: GPU }),
    cluster.device({ deviceId: 'fpga-0', capabilities: FPGA }),
    cluster.device({ deviceId: 'fpga-1', capabilities: FPGA }),
  ])
  if (!gpu) throw new Error('The GPU was started.')
  return { gpu, fpgas }
}

/** Within a second no device holds or runs anything. */
export async function untilIdle(...devices: FakeDevice[]): Promise<void> {
  await until(
    'every device is idle',
    () => devices.every(({ leases, running }) => leases.size === 0 && running === 0),
    1_000,
  )
}
