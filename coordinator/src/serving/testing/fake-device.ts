/**
 * A device for tests of the serving side: real gRPC, real NATS, no model. Its tokens
 * follow from the prompt and the index alone, as those of every device do.
 *
 * It refuses a prompt whose emitted part is not what it would have generated, so a
 * test notices when a moved request loses or doubles a token.
 */
import {
  Advertisement,
  Capability,
  ControlRequest,
  LoadedModel,
  LoadReport,
  type ModelArrival,
  Precision,
  Profile,
  TierKind,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import {
  type AttentionFigures,
  type DecodeRequest,
  type DecodeResponse,
  FinishReason,
  type InferenceServiceServer,
  InferenceServiceService,
  type PrefillRequest,
  PrefixReuse,
  ReuseMode,
  type Token,
} from '@kvasir/proto/kvasir/inference/v1/inference'
import {
  type KvServiceServer,
  KvServiceService,
  LeasePurpose,
  type ReserveRequest,
} from '@kvasir/proto/kvasir/kv/v1/kv'
import { type Bus, connectBus } from '@kvasir/runtime/bus'
import { type Deferred, deferred, delay, withSignal } from '@kvasir/runtime/deferred'
import {
  InternalError,
  type KvasirError,
  LeaseExpiredError,
  OverloadedError,
  UnreachableError,
} from '@kvasir/runtime/errors'
import {
  bidi,
  clientStream,
  type RpcServer,
  serverStream,
  startRpcServer,
  unary,
} from '@kvasir/runtime/rpc-server'
import {
  BUCKET_TTL_MS,
  controlSubject,
  DEVICES_BUCKET,
  kvSubject,
  loadSubject,
} from '@kvasir/runtime/subjects'
import { type BlockHashes, NO_HASHES } from '../../core/block-hashes.js'
import { promptHashes } from '../../gateway/prompt-hashes.js'
import { FAKE_VARIANT, FakeBlocks, type FakePeers } from './fake-blocks.js'

export const FAKE_MODEL = { name: 'numbers', digest: 'digest-of-numbers', contextTokensMax: 4_096 }

/** A model that a fake device has, in f32 where it is exact and in the paper's numbers where not. */
export interface FakeModel {
  readonly name: string
  readonly digest: string
  readonly profile: 'exact' | 'paper'
  /** Where they are a device's own. */
  readonly numerics?: string
}

const REPORT_MS = 200
const KV_BYTES_PER_TOKEN = 64

/** Token `index` after this prompt. */
export function fakeToken(prompt: readonly number[], index: number): number {
  return (prompt.reduce((sum, id) => sum + id, 0) * 31 + index * 7) % 1_000
}

export function fakeTokens(prompt: readonly number[], count: number): number[] {
  return Array.from({ length: count }, (_, index) => fakeToken(prompt, index))
}

/** Transfers between fake devices go through this instead of a wire. */
export type FakeTransfers = Map<string, Deferred<void>>

export interface FakeDeviceOptions {
  readonly deviceId: string
  readonly natsUrl: string
  readonly transfers: FakeTransfers
  readonly peers?: FakePeers
  readonly capabilities?: readonly Capability[]
  readonly decodeSlots?: number
  /** FAKE_MODEL in exact numerics by default. */
  readonly models?: readonly FakeModel[]
  readonly incarnation: bigint
  /** Pace of decoding. */
  readonly stepMs?: number
}

export class FakeDevice {
  readonly deviceId: string
  /** Called before each answer; what it throws is the answer. */
  onReserve: () => void = () => {}
  /** What its prefills tell of the time that they took. */
  prefillTimes: { readonly computeUs: bigint; readonly computeShareUs?: bigint } = { computeUs: 1_000n }
  onPrefill: (request: PrefillRequest, signal: AbortSignal) => Promise<void> | void = () => {}
  onDecode: (request: DecodeRequest, signal: AbortSignal) => Promise<void> | void = () => {}
  /** Answers a control request with what is wrong with it; nothing by default. */
  onControl: (command: ControlRequest['command']) => string = () => ''
  /** Of its load reports, from the next one on. */
  arrivals: Partial<ModelArrival>[] = []
  /** Index of the token that ends a text. */
  stopIndex = Number.POSITIVE_INFINITY
  /** Decoding gives its slot back after the token of this index. */
  preemptIndex = Number.POSITIVE_INFINITY
  readonly leases = new Set<bigint>()
  /** Of sequences that other devices decode; they take no slot. */
  readonly attendLeases = new Set<bigint>()
  readonly blocks: FakeBlocks
  readonly reserves: ReserveRequest[] = []
  readonly prefills: PrefillRequest[] = []
  readonly decodes: DecodeRequest[] = []
  readonly commands: ControlRequest['command'][] = []
  reservations = 0
  running = 0
  stepMs: number
  #counter = 0n
  readonly #options: FakeDeviceOptions
  readonly #incarnation: bigint
  readonly #transfers: FakeTransfers
  readonly #peers: FakePeers
  #bus: Bus | undefined
  #server: RpcServer | undefined
  #reporter: NodeJS.Timeout | undefined
  #sequence = 0n
  #models: readonly FakeModel[]

  constructor(options: FakeDeviceOptions) {
    this.#options = options
    this.deviceId = options.deviceId
    this.stepMs = options.stepMs ?? 1
    this.#incarnation = options.incarnation
    this.#models = options.models ?? [{ ...FAKE_MODEL, profile: 'exact' }]
    this.#transfers = options.transfers
    this.#peers = options.peers ?? new Map()
    this.blocks = new FakeBlocks(options, this.#tier(), (event) =>
      this.#bus?.publish(kvSubject(this.deviceId), event),
    )
    this.#peers.set(this.deviceId, this.blocks)
  }

  async start(): Promise<this> {
    const { natsUrl, deviceId } = this.#options
    this.#server = await startRpcServer({
      host: '127.0.0.1',
      port: 0,
      services: [
        { definition: KvServiceService, implementation: this.#kvService() },
        { definition: InferenceServiceService, implementation: this.#inferenceService() },
      ],
    })
    const bus = await connectBus({ url: natsUrl, name: deviceId })
    this.#bus = bus
    await this.#advertise()
    bus.onStatus((connected) => {
      if (connected) this.#advertise().catch(() => {})
    })
    bus.respond(controlSubject(deviceId), (json) => {
      const { command } = ControlRequest.fromJSON(json)
      this.commands.push(command)
      return { deviceId, incarnation: String(this.#incarnation), error: this.onControl(command) }
    })
    this.#report()
    this.#reporter = setInterval(() => this.#report(), REPORT_MS)
    return this
  }

  /** From now on it has these. */
  async setModels(models: readonly FakeModel[]): Promise<void> {
    this.#models = models
    await this.#advertise()
  }

  async #advertise(): Promise<void> {
    const bucket = this.#bus?.bucket(DEVICES_BUCKET, { ttlMs: BUCKET_TTL_MS })
    await bucket?.put(this.deviceId, this.#advertisement(this.#server?.address ?? ''))
  }

  /** As kill -9: connections break, reports stop, the advertisement stays. */
  async kill(): Promise<void> {
    clearInterval(this.#reporter)
    await this.#server?.close()
    await this.#bus?.close()
    this.leases.clear()
    this.attendLeases.clear()
  }

  #kvService(): KvServiceServer {
    const absent = async (): Promise<never> => {
      throw new InternalError('A fake device has no such method.')
    }
    return {
      reserve: unary(async (request) => {
        this.reserves.push(request)
        this.onReserve()
        if (request.purpose === LeasePurpose.ATTEND) {
          this.#counter += 1n
          this.attendLeases.add(this.#counter)
          return { lease: this.#lease(this.#counter), tokens: request.tokens }
        }
        if (this.leases.size >= (this.#options.decodeSlots ?? 4)) {
          throw new OverloadedError(`Every decode slot of ${this.deviceId} is taken.`)
        }
        this.#counter += 1n
        this.leases.add(this.#counter)
        this.reservations += 1
        return { lease: this.#lease(this.#counter), tokens: 1_024 }
      }),
      release: unary(async ({ lease }) => {
        const counter = lease?.counter ?? 0n
        return { wasAlive: this.leases.delete(counter) || this.attendLeases.delete(counter) }
      }),
      extend: unary(absent),
      pull: bidi(absent),
      push: clientStream(absent),
      snapshot: serverStream(async (_request, _call, send) => send(this.blocks.snapshot())),
      offer: unary(absent),
    }
  }

  #inferenceService(): InferenceServiceServer {
    return {
      prefill: serverStream(async (request, call, send) => {
        this.prefills.push(request)
        await this.#counted(async () => {
          const transfer = this.#transfer(request.transferId)
          await this.onPrefill(request, call.signal)
          const prompt = promptOf(request)
          await send({ event: { $case: 'admitted', value: { lease: undefined, tokensAhead: 0n } } })
          const stopped = request.firstIndex >= this.stopIndex
          const token = stopped ? undefined : tokenAt(prompt, request.firstIndex)
          const hashes = hashesOf(request)
          const reuse = this.blocks.reuse(hashes, request.tokens.length, request.prefix, this.#peers)
          if (hashes.length > 0) this.blocks.store(hashes)
          await send({
            event: {
              $case: 'finished',
              value: { token, stopped, queueUs: 10n, ...this.prefillTimes, reuse },
            },
          })
          transfer.resolve()
          const bytes = BigInt(request.tokens.length * KV_BYTES_PER_TOKEN)
          const sent = { bytes, chunks: 2n, busyUs: 800n, exposedUs: 80n }
          await send({ event: { $case: 'kvSent', value: sent } })
        })
      }),
      decode: serverStream(async (request, call, send) => {
        this.decodes.push(request)
        const counter = request.lease?.counter ?? 0n
        if (!this.leases.has(counter)) throw new LeaseExpiredError('This lease has ended.')
        await this.#counted(async () => {
          try {
            await this.onDecode(request, call.signal)
            const { source } = request
            if (source) await this.#pulled(source.transferId, source.deviceId, call.signal)
            const started = {
              kvBytes: source ? 64n : 0n,
              kvChunks: 0n,
              kvUs: 0n,
              queueUs: 0n,
              prefillUs: 500n,
              reuse: this.#reuseOf(request),
            }
            await send({ event: { $case: 'started', value: started } })
            await this.#generate(request, call.signal, send)
          } finally {
            this.leases.delete(counter)
          }
        })
      }),
    }
  }

  #reuseOf(request: DecodeRequest): PrefixReuse {
    const hashes = hashesOf(request)
    const reuse = request.source
      ? PrefixReuse.fromPartial({ localTokens: this.blocks.leadingTokens(hashes) })
      : this.blocks.reuse(hashes, request.tokens.length, request.prefix, this.#peers)
    if (hashes.length > 0) this.blocks.store(hashes)
    return reuse
  }

  #tier(): string {
    return this.#options.capabilities?.includes(Capability.KV_TIER) ? 'dram' : 'hbm'
  }

  async #generate(
    request: DecodeRequest,
    signal: AbortSignal,
    send: (message: DecodeResponse) => Promise<void>,
  ): Promise<void> {
    const prompt = promptOf(request)
    const finish = (reason: FinishReason, steps: number): Promise<void> => {
      const value = {
        reason,
        steps,
        stepUs: BigInt(steps * 900),
        batchMax: 1,
        reads: [{ tier: 'hbm', readBytes: BigInt(steps * 64), movedBytes: 0n }],
        attention: request.attention && attentionFigures(steps, request.offload !== undefined),
      }
      return send({ event: { $case: 'finished', value } })
    }
    const from = request.source ? request.firstIndex + 1 : request.firstIndex
    for (let index = from; index < request.maxTokens; index += 1) {
      await delay(this.stepMs, signal)
      if (signal.aborted) throw signal.reason
      if (index >= this.stopIndex) return finish(FinishReason.STOP, index - from)
      await send({ event: { $case: 'tokens', value: { tokens: [tokenAt(prompt, index)] } } })
      if (index >= this.preemptIndex) return finish(FinishReason.PREEMPTED, index - from)
    }
    return finish(FinishReason.LENGTH, request.maxTokens - from)
  }

  async #pulled(transferId: string, from: string, signal: AbortSignal): Promise<void> {
    try {
      await withSignal(this.#transfer(transferId).promise, signal)
    } catch (error) {
      if (signal.aborted) throw error
      throw new UnreachableError(`Device ${from} was lost.`, { ids: { deviceId: from }, cause: error })
    }
  }

  #transfer(transferId: string): Deferred<void> {
    const known = this.#transfers.get(transferId)
    if (known) return known
    const transfer = deferred<void>()
    this.#transfers.set(transferId, transfer)
    return transfer
  }

  async #counted(work: () => Promise<void>): Promise<void> {
    this.running += 1
    try {
      await work()
    } finally {
      this.running -= 1
    }
  }

  #lease(counter: bigint) {
    return { deviceId: this.deviceId, incarnation: this.#incarnation, counter, ttlMs: 5_000 }
  }

  #report(): void {
    this.#sequence += 1n
    const report = LoadReport.fromPartial({
      deviceId: this.deviceId,
      incarnation: this.#incarnation,
      sequence: this.#sequence,
      decodeSlotsUsed: this.leases.size,
      tiers: [
        {
          name: this.#tier(),
          leasedBytes: 0n,
          capacityBytes: 1n << 30n,
          cachedBytes: 4_096n,
          counters: { lookups: 8n, hits: 6n, inBytes: 1n, outBytes: 2n, readBytes: 3n, droppedBlocks: 4n },
        },
      ],
      leases: this.leases.size,
      arrivals: this.arrivals,
    })
    this.#bus?.publish(loadSubject(this.deviceId), LoadReport.toJSON(report) as object)
  }

  #advertisement(address: string): object {
    const advertisement = Advertisement.fromPartial({
      deviceId: this.deviceId,
      incarnation: this.#incarnation,
      protocolVersion: 1,
      protocolVersionMin: 1,
      kind: 'fake',
      deviceModel: 'a device of a test',
      machine: { id: 'machine-0', hostname: 'machine-0' },
      capabilities: [...(this.#options.capabilities ?? [Capability.DECODE, Capability.PREFILL])],
      tiers: [
        {
          name: this.#tier(),
          kind: this.#tier() === 'dram' ? TierKind.HOST_DRAM : TierKind.HBM,
          capacityBytes: 1n << 30n,
          bandwidthBytesPerSecond: 10e9,
        },
      ],
      compute: [{ precision: Precision.F32, peakOpsPerSecond: 100e9 }],
      models: this.#models.map(modelMessage),
      kernels: ['choose-pages', 'page-scores'].map((name) => ({ name, version: 1, limits: {} })),
      decodeSlots: this.#options.decodeSlots ?? 4,
      link: { class: 'loopback', bytesPerSecond: 1e9, latencyUs: 20 },
      endpoints: { control: address, kv: address },
    })
    return Advertisement.toJSON(advertisement) as object
  }
}

function modelMessage({ name, digest, profile, numerics }: FakeModel): LoadedModel {
  const isPaper = profile === 'paper'
  return LoadedModel.fromPartial({
    ...{ name, digest, contextTokensMax: FAKE_MODEL.contextTokensMax },
    profile: isPaper ? Profile.PAPER : Profile.EXACT,
    numerics: numerics ?? (isPaper ? 'w4a8+kv8' : 'f32'),
    variant: isPaper ? { ...FAKE_VARIANT, numerics: Profile.PAPER, dtype: Precision.INT8 } : FAKE_VARIANT,
    kvBytesPerToken: BigInt(KV_BYTES_PER_TOKEN),
    layers: { first: 0, count: 2 },
    parameters: 1_000_000n,
    weightBytes: 4_000_000n,
  })
}

/** Ends every transfer that waits for this device, as a broken connection would. */
export function breakTransfers(transfers: FakeTransfers, error: KvasirError): void {
  for (const transfer of transfers.values()) transfer.reject(error)
}

/** Of the full blocks that the sequence may reuse and leave behind. */
function hashesOf({ sequence, tokens, reuse }: PrefillRequest | DecodeRequest): BlockHashes {
  if (!sequence || reuse === ReuseMode.NONE) return NO_HASHES
  return promptHashes(sequence.modelDigest, sequence.tenantSalt, tokens)
}

/** Of two layers, of whose eight pages a quarter was read. */
function attentionFigures(steps: number, isRemote: boolean): AttentionFigures {
  const calls = BigInt(2 * steps)
  return {
    calls,
    pages: 8n * calls,
    pagesRead: 2n * calls,
    prepareUs: 0n,
    relevancyUs: 10n * calls,
    retrievalUs: 5n * calls,
    applyUs: 20n * calls,
    remoteUs: isRemote ? 50n * calls : 0n,
    wireBytes: isRemote ? 100n * calls : 0n,
  }
}

function promptOf({ tokens, firstIndex }: { tokens: readonly number[]; firstIndex: number }): number[] {
  const prompt = tokens.slice(0, tokens.length - firstIndex)
  const emitted = tokens.slice(prompt.length)
  const expected = fakeTokens(prompt, firstIndex)
  if (emitted.some((id, index) => id !== expected[index])) {
    throw new InternalError('The emitted tokens are not those that this prompt gives.')
  }
  return prompt
}

function tokenAt(prompt: readonly number[], index: number): Token {
  return { index, id: fakeToken(prompt, index), logprob: 0, top: [], nearTie: false }
}
