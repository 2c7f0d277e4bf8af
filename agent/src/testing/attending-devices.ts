/**
 * Devices with a small random model on ONNX Runtime, for tests of attention across devices: the fake
 * driver's model has none.
 */
import type { LoadedModelFacts } from '@kvasir/engine/device-driver'
import type { Attention, DecodeRequest, DecodeResponse } from '@kvasir/proto/kvasir/inference/v1/inference'
import type { Lease } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { AttendMode } from '@kvasir/proto/kvasir/memory/v1/memory'
import { systemClock } from '@kvasir/runtime/clock'
import { createLogger } from '@kvasir/runtime/log'
import { callServerStream, callUnary } from '@kvasir/runtime/rpc-client'
import { memoryService } from '../attend-service.js'
import type { DeviceDefinition, DriverFactory } from '../definition.js'
import type { AgentLimits } from '../limits.js'
import { ortFactory } from '../ort-factory.js'
import { type ServingDevice, startServingDevice } from '../serving-device.js'
import { agentSettings } from '../settings.js'
import { poolBlockBytes } from './pool-bytes.js'
import { GREEDY, onlyModel, TestClient, untilEmpty } from './test-devices.js'

/** Blocks of each device: some sequences of the model's context. */
const BLOCKS = 256

const definition: DeviceDefinition = {
  kind: 'test',
  capabilities: ['CAPABILITY_PREFILL', 'CAPABILITY_DECODE', 'CAPABILITY_ATTEND'],
  deviceModel: 'small random model',
  tiers: [{ name: 'hbm', kind: 'TIER_KIND_HBM', bytes: 'tierBytes' }],
  decodeSlotsDefault: 4,
  linkClass: 'loopback',
  services: [memoryService],
}

function gatedFactory(beforeKernel: () => Promise<void>): DriverFactory {
  return {
    ...ortFactory,
    async create(options) {
      const driver = await ortFactory.create(options)
      return {
        ...driver,
        async loadModel(load) {
          const model = await driver.loadModel(load)
          return {
            ...model,
            async runKernel(name, input) {
              await beforeKernel()
              return model.runKernel(name, input)
            },
          }
        },
      }
    },
  }
}

interface AttendingDeviceOptions {
  readonly limits?: Partial<AgentLimits>
  /** Awaited before each kernel; a device that hangs in one never resolves it. */
  readonly beforeKernel?: () => Promise<void>
}

/** Who attends, with what. */
interface TestOffload {
  readonly deviceId: string
  readonly endpoint: string
  readonly lease: Lease
  readonly mode: AttendMode
}

interface GenerateOptions {
  readonly maxTokens: number
  readonly attention?: Attention
  readonly offload?: TestOffload
  readonly signal?: AbortSignal
  readonly request?: Partial<DecodeRequest>
}

export class AttendingDevice extends TestClient {
  private constructor(readonly serving: ServingDevice) {
    const { deviceId, models } = serving.device
    super(deviceId, serving.control.address, serving.kv.address, models.all[0]?.model.digest ?? '')
  }

  /** `model`: folder or name. */
  static async start(
    deviceId: string,
    model: string,
    { limits = {}, beforeKernel }: AttendingDeviceOptions = {},
  ): Promise<AttendingDevice> {
    const settings = agentSettings.parse({
      deviceId,
      model,
      tierBytes: BLOCKS * (await poolBlockBytes(ortFactory, model)),
      threads: 1,
    })
    const log = createLogger({ service: deviceId, terminal: false })
    const driver = beforeKernel === undefined ? ortFactory : gatedFactory(beforeKernel)
    const device = { ...definition, driver }
    const serving = await startServingDevice({
      definition: device,
      settings,
      clock: systemClock,
      log,
      limits,
    })
    return new AttendingDevice(serving)
  }

  get model(): LoadedModelFacts {
    return onlyModel(this.serving).model
  }

  /** Room for the full pages of a prompt, to answer for with `mode`. */
  async offload(
    requestId: string,
    prompt: readonly number[],
    mode: AttendMode,
    hashes?: readonly Buffer[],
  ): Promise<TestOffload> {
    const { lease } = await callUnary(this.kv, 'reserve', {
      ...this.identity(requestId),
      tokens: Math.floor(prompt.length / 16) * 16,
      purpose: 'LEASE_PURPOSE_ATTEND',
      ...(hashes === undefined ? {} : { prefix: { hashes: [...hashes] } }),
    })
    if (lease === undefined) throw new Error('Reserve gave no lease')
    return { deviceId: this.id, endpoint: this.serving.control.address, lease, mode }
  }

  /** Prefills and decodes here, with log probabilities. */
  async generate(
    requestId: string,
    tokens: readonly number[],
    { maxTokens, attention, offload, signal, request }: GenerateOptions,
  ): Promise<AsyncIterableIterator<DecodeResponse>> {
    const lease = await this.reserve(requestId, tokens.length + maxTokens)
    return callServerStream(
      this.inference,
      'decode',
      {
        sequence: this.identity(requestId),
        lease,
        tokens: [...tokens],
        firstIndex: 0,
        maxTokens,
        sampling: { ...GREEDY, logprobs: true, topLogprobs: 20 },
        source: undefined,
        ...(attention === undefined ? {} : { attention }),
        ...(offload === undefined ? {} : { offload }),
        ...request,
      },
      { signal },
    )
  }

  empty(): Promise<void> {
    return untilEmpty(this.serving)
  }

  async stop(): Promise<void> {
    this.close()
    await this.serving.close()
  }
}
