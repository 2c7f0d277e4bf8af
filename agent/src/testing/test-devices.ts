/**
 * Devices for tests: the fake driver behind the real services on real gRPC, in one
 * process, with short deadlines.
 */
import { type Capability, Profile } from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  type Attention,
  type CachedPrefix,
  type DecodeResponse,
  InferenceServiceClient,
  type PrefillResponse,
  type ReuseMode,
  type Sampling,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import { KvServiceClient, type Lease, PullTiming } from '@kvasir/proto/kvasir/kv/v1/kv'
import { systemClock } from '@kvasir/runtime/clock'
import type { KvasirError } from '@kvasir/runtime/errors'
import { createLogger } from '@kvasir/runtime/log'
import { callServerStream, callUnary, createRpcClient } from '@kvasir/runtime/rpc-client'
import type { DeviceDefinition, DriverFactory } from '../definition.js'
import { HashChain } from '../hash-chain.js'
import type { TierPeer } from '../host-tier-peer.js'
import { hashBytes, type KvChange } from '../kv-index.js'
import type { AgentLimits } from '../limits.js'
import type { ServedModel } from '../served-model.js'
import { type ServingDevice, startServingDevice } from '../serving-device.js'
import { type AgentSettings, agentSettings } from '../settings.js'
import { FAKE_MODEL, type FakeDriverOptions, fakeFactory } from './fake-driver.js'
import { poolBlockBytes } from './pool-bytes.js'

export const GREEDY: Sampling = {
  temperature: 0,
  topP: 1,
  topK: 0,
  seed: 0n,
  stopTokens: [],
  topLogprobs: 0,
  logprobs: false,
}

export interface TestDeviceOptions {
  readonly deviceId: string
  readonly fake?: FakeDriverOptions
  readonly blocks?: number
  readonly decodeSlots?: number
  readonly linkBytesPerSecond?: number
  readonly limits?: Partial<AgentLimits>
  readonly onKvChange?: (change: KvChange) => void
  readonly onBroken?: (error: KvasirError) => void
  readonly capabilities?: readonly Capability[]
  readonly profile?: AgentSettings['profile']
  readonly paperNumerics?: 'float' | 'quantised'
  /** null for none. */
  readonly model?: string | null
  readonly modelBytes?: number
  /** Blocks of a second tier; none where absent. */
  readonly farBlocks?: number
  readonly tierPolicy?: AgentSettings['tierPolicy']
  readonly hostTier?: () => TierPeer | undefined
  /** A device other than the fake one, and its model. */
  readonly real?: { readonly driver: DriverFactory; readonly model: string }
}

/** What a request may say of cached blocks and attention. */
export interface ReuseOptions {
  readonly prefix?: CachedPrefix
  readonly reuse?: ReuseMode
  readonly salt?: string
  readonly attention?: Attention
}

export function fakeDefinition(kind: string, fake: FakeDriverOptions = {}): DeviceDefinition {
  return {
    kind,
    capabilities: ['CAPABILITY_PREFILL', 'CAPABILITY_DECODE'],
    deviceModel: `fake ${kind}`,
    tiers: [
      { name: 'hbm', kind: 'TIER_KIND_HBM', bytes: 'tierBytes' },
      { name: 'ddr', kind: 'TIER_KIND_DDR', bytes: 'ddrBytes', bandwidthShare: 0.1 },
    ],
    decodeSlotsDefault: 8,
    linkClass: 'loopback',
    driver: fakeFactory(fake),
  }
}

/** What a coordinator does with one device. */
export class TestClient {
  readonly inference: InferenceServiceClient
  readonly kv: KvServiceClient

  constructor(
    readonly id: string,
    control: string,
    private readonly kvEndpoint: string,
    private readonly modelDigest: string,
    private readonly profile: Profile = Profile.EXACT,
  ) {
    this.inference = createRpcClient(InferenceServiceClient, control)
    this.kv = createRpcClient(KvServiceClient, control)
  }

  identity(requestId: string, epoch = 1, salt = '') {
    const { modelDigest, profile } = this
    const tenantSalt = Buffer.from(salt)
    return { requestId, epoch, modelDigest, profile, tenantSalt }
  }

  /** `hashes`: of the prompt's full blocks, where they may be shared. */
  async reserve(requestId: string, tokens: number, epoch = 1, hashes?: readonly string[]): Promise<Lease> {
    const prefix = hashes === undefined ? undefined : { hashes: hashes.map(hashBytes) }
    const request = { ...this.identity(requestId, epoch), tokens, prefix }
    const { lease } = await callUnary(this.kv, 'reserve', request)
    if (lease === undefined) throw new Error('Reserve gave no lease')
    return lease
  }

  /** The names of a prompt's full blocks. */
  hashes(prompt: readonly number[], salt = ''): readonly string[] {
    return new HashChain(this.modelDigest, Buffer.from(salt), prompt).prompt
  }

  prefill(
    requestId: string,
    tokens: number[],
    options: {
      transferId?: string
      signal?: AbortSignal
      epoch?: number
      sampling?: Sampling
    } & ReuseOptions = {},
  ): AsyncIterableIterator<PrefillResponse> {
    const { transferId = `transfer-${requestId}`, sampling = GREEDY, prefix, reuse, attention } = options
    const sequence = this.identity(requestId, options.epoch, options.salt)
    const request = { sequence, transferId, tokens, firstIndex: 0, sampling, prefix, reuse, attention }
    return callServerStream(this.inference, 'prefill', request, { signal: options.signal })
  }

  decode(
    requestId: string,
    lease: Lease,
    tokens: number[],
    options: {
      maxTokens: number
      from?: { id: string; endpoint: string }
      timing?: PullTiming
      signal?: AbortSignal
      epoch?: number
      sampling?: Sampling
    } & ReuseOptions,
  ): AsyncIterableIterator<DecodeResponse> {
    const { maxTokens, from, timing = PullTiming.LAYERED, sampling = GREEDY } = options
    const { prefix, reuse, attention } = options
    const transferId = `transfer-${requestId}`
    const source =
      from === undefined ? undefined : { deviceId: from.id, endpoint: from.endpoint, transferId, timing }
    const sequence = this.identity(requestId, options.epoch, options.salt)
    const request = {
      sequence,
      lease,
      tokens,
      firstIndex: 0,
      maxTokens,
      sampling,
      source,
      prefix,
      reuse,
      attention,
    }
    return callServerStream(this.inference, 'decode', request, { signal: options.signal })
  }

  /** As the source of a transfer. */
  get source(): { id: string; endpoint: string } {
    return { id: this.id, endpoint: this.kvEndpoint }
  }

  close(): void {
    this.inference.close()
    this.kv.close()
  }
}

/** A device in this process, with its client. */
export class TestDevice extends TestClient {
  private constructor(readonly serving: ServingDevice) {
    const { deviceId, models } = serving.device
    const [served] = models.all
    super(deviceId, serving.control.address, serving.kv.address, served?.model.digest ?? '', served?.profile)
  }

  static async start(options: TestDeviceOptions): Promise<TestDevice> {
    const { capabilities } = options
    const { driver = fakeFactory(options.fake), model = options.model ?? FAKE_MODEL } = options.real ?? {}
    const definition: DeviceDefinition = {
      ...fakeDefinition('test'),
      driver,
      ...(capabilities === undefined ? {} : { capabilities }),
      ...(options.paperNumerics === undefined ? {} : { paperNumerics: options.paperNumerics }),
    }
    const blockBytes = await poolBlockBytes(driver, model)
    const settings = agentSettings.parse({
      deviceId: options.deviceId,
      model: options.model === null ? undefined : model,
      profile: options.profile,
      modelBytes: options.modelBytes,
      tierBytes: (options.blocks ?? 256) * blockBytes,
      ddrBytes: (options.farBlocks ?? 0) * blockBytes,
      tierPolicy: options.tierPolicy,
      decodeSlots: options.decodeSlots,
      linkBytesPerSecond: options.linkBytesPerSecond,
    })
    const log = createLogger({ service: options.deviceId, terminal: false })
    const { limits, onKvChange, onBroken, hostTier } = options
    return new TestDevice(
      await startServingDevice({
        definition,
        settings,
        clock: systemClock,
        log,
        ...(limits === undefined ? {} : { limits }),
        ...(onKvChange === undefined ? {} : { onKvChange }),
        ...(onBroken === undefined ? {} : { onBroken }),
        ...(hostTier === undefined ? {} : { hostTier }),
      }),
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

/** The model of a device that serves one. */
export function onlyModel({ device }: ServingDevice): ServedModel {
  const [served, ...others] = device.models.all
  if (served === undefined || others.length > 0) throw new Error(`The device serves ${others.length} others`)
  return served
}

/** Waits until nothing is leased and no block used; fails after a second (I4). */
export async function untilEmpty({ device }: ServingDevice): Promise<void> {
  const endMs = performance.now() + 1_000
  for (;;) {
    const loads = device.models.all.map((served) => served.load())
    if (loads.every((load) => load.usedBlocks + load.leases + load.sequences === 0)) return
    if (performance.now() > endMs) throw new Error(`Not freed within a second: ${JSON.stringify(loads)}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** What a Decode stream said. */
export interface DecodeStory {
  readonly tokens: number[]
  readonly indices: number[]
  readonly started: Extract<NonNullable<DecodeResponse['event']>, { $case: 'started' }>['value'] | undefined
  readonly finished: Extract<NonNullable<DecodeResponse['event']>, { $case: 'finished' }>['value'] | undefined
}

export async function readDecode(stream: AsyncIterable<DecodeResponse>): Promise<DecodeStory> {
  const tokens: number[] = []
  const indices: number[] = []
  let started: DecodeStory['started']
  let finished: DecodeStory['finished']
  for await (const { event } of stream) {
    if (event?.$case === 'started') started = event.value
    else if (event?.$case === 'finished') finished = event.value
    else if (event?.$case === 'tokens') {
      for (const token of event.value.tokens) {
        tokens.push(token.id)
        indices.push(token.index)
      }
    }
  }
  return { tokens, indices, started, finished }
}

/** What a Prefill stream said, by the name of the event. */
export async function readPrefill(
  stream: AsyncIterable<PrefillResponse>,
): Promise<PrefillResponse['event'][]> {
  const events: PrefillResponse['event'][] = []
  for await (const { event } of stream) events.push(event)
  return events
}

export function promptOf(length: number, seed = 1): number[] {
  return Array.from({ length }, (_, i) => 1 + ((i * 13 + seed * 29) % 90))
}
