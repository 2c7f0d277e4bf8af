/**
 * The serving side of the coordinator: joins the pure core to NATS, to the devices and
 * to the gateway. It decides nothing itself.
 *
 * Every event goes through one queue into the core, and the actions that come out are
 * carried out before the next event goes in.
 */
import type { SnapshotResponse } from '@kvasir/proto/kvasir/kv/v1/kv'
import type { Bus } from '@kvasir/runtime/bus'
import type { Clock } from '@kvasir/runtime/clock'
import { DeadlineError, type KvasirError, messageOf, UnavailableError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { PROTOCOL_VERSION, PROTOCOL_VERSION_MIN } from '@kvasir/runtime/protocol'
import { callServerStream, checkHealth } from '@kvasir/runtime/rpc-client'
import type { AdmissionSetting } from '../core/admission-setting.js'
import { NO_HASHES } from '../core/block-hashes.js'
import type { CompletionHistory, CompletionRecord } from '../core/completion-record.js'
import { CoordinatorCore, TICK_MS } from '../core/coordinator-core.js'
import type { DeviceRef } from '../core/facts.js'
import type { KvSnapshot } from '../core/kv-follower.js'
import type { PolicySetting } from '../core/placement-policy.js'
import type { CoordinatorAction, CoordinatorEvent } from '../core/protocol.js'
import type {
  ClusterReport,
  Generation,
  GenerationRequest,
  GenerationService,
  KvEviction,
  KvReport,
  RequestReport,
} from '../generation.js'
import type {
  LoadAnswer,
  LoadOrder,
  ModelReport,
  ModelTraits,
  UnloadAnswer,
  UnloadOrder,
} from '../model-reports.js'
import { type RetrievalNode, retrievalNodes } from '../retrieval/retrieval-devices.js'
import { ShedError } from '../shed-error.js'
import { type AdvertisedModel, advertisedModels, modelReports, modelTraits } from './cluster-models.js'
import { deviceReports } from './cluster-report.js'
import { ClusterWatch } from './cluster-watch.js'
import { CompletionLog } from './completion-log.js'
import { type DeviceClient, DeviceClients } from './device-clients.js'
import { readSnapshot } from './device-facts.js'
import { evictBlocks } from './kv-evictor.js'
import { kvReport } from './kv-report.js'
import { loadOnDevices, unloadOnDevices } from './model-orders.js'
import { RequestSession } from './request-session.js'
import { RequestStore } from './request-store.js'

export interface ServingOptions {
  readonly bus: Bus
  readonly clock: Clock
  readonly log: Logger
  readonly coordinatorId: string
  /** Requests that may wait for a device; more are refused. Default 256. */
  readonly queuedMax?: number
  /** Longest wait for a device, the first or a later one. Default 10 s. */
  readonly placementDeadlineMs?: number
  /** Longest life of a request. Default 600 s. */
  readonly requestDeadlineMs?: number
  /** What requests that ask for no attention get: `auto` may be sparse in long contexts. Default auto. */
  readonly attentionDefault?: 'auto' | 'dense'
  readonly admission?: AdmissionSetting
  readonly policy?: PolicySetting
}

export interface Serving extends GenerationService {
  /** The models that devices have, as they are seen now. */
  advertisedModels(): readonly AdvertisedModel[]
  /** `listener` is called at each change of what `advertisedModels` gives. */
  onModels(listener: () => void): void
  /** Throws UnreachableError where that life of the device is not known any more. */
  modelFiles(device: DeviceRef): DeviceClient['models']
  /** The devices that keep or search corpora, as they are seen now. */
  retrievalNodes(): readonly RetrievalNode[]
  /** Takes no more requests, waits for those that run, and fails what is left after `deadlineMs`. */
  drain(deadlineMs: number): Promise<void>
  /** Fails what still runs and lets go of everything. */
  close(): Promise<void>
}

const ENDED_REQUESTS_MAX = 1_000
const COMPLETIONS_MAX = 4_096
const DRAIN_POLL_MS = 20
/** For the releases that follow a cancellation to leave the process. */
const CLOSE_GRACE_MS = 100

export function createServing(options: ServingOptions): Serving {
  return new ServingShell(options)
}

class ServingShell implements Serving {
  readonly #options: ServingOptions
  readonly #core: CoordinatorCore
  readonly #watch: ClusterWatch
  readonly #clients: DeviceClients
  readonly #store = new RequestStore(ENDED_REQUESTS_MAX)
  readonly #completions = new CompletionLog(COMPLETIONS_MAX)
  readonly #events: CoordinatorEvent[] = []
  readonly #ticker: NodeJS.Timeout
  readonly #modelListeners: (() => void)[] = []
  /** Models of each device as they were told last, to notice a change. */
  readonly #toldModels = new Map<string, string>()
  readonly #traits = new Map<string, ModelTraits | undefined>()
  #isStepping = false
  #isDraining = false
  #closed: Promise<void> | undefined

  constructor(options: ServingOptions) {
    this.#options = options
    this.#core = new CoordinatorCore({
      protocolVersion: PROTOCOL_VERSION,
      protocolVersionMin: PROTOCOL_VERSION_MIN,
      queuedMax: options.queuedMax ?? 256,
      placementDeadlineMs: options.placementDeadlineMs ?? 10_000,
      requestDeadlineMs: options.requestDeadlineMs ?? 600_000,
      attentionDefault: options.attentionDefault ?? 'auto',
      admission: options.admission ?? {},
      policy: options.policy ?? {},
    })
    this.#watch = new ClusterWatch(options.bus, options.log, (event) => this.#tell(event))
    this.#clients = new DeviceClients(this.#watch)
    this.#ticker = setInterval(() => this.#tell({ type: 'tick' }), TICK_MS)
  }

  submit(request: GenerationRequest): Generation {
    if (this.#isDraining) throw shuttingDown(request.requestId)
    const { modelDigest, profile } = request
    const session = new RequestSession({
      request,
      clients: this.#clients,
      clock: this.#options.clock,
      tell: (event) => this.#tell(event),
      onMissed: ({ device, hashes }) => this.#tell({ type: 'kv-missed', device, hashes }),
      paceOf: (device) => {
        const pace = this.#watch.advertisement(device)?.pace
        return pace && { device: pace.device, model: pace.model, preset: pace.preset }
      },
      onCancel: () => this.#tell({ type: 'cancel', requestId: request.requestId }),
      onEnd: (ended, completion) => this.#ended(ended, completion),
    })
    this.#store.add(session)
    this.#tell({
      type: 'submit',
      requestId: request.requestId,
      modelDigest,
      profile,
      promptTokens: request.promptTokens.length,
      maxTokens: request.maxTokens,
      blockHashes: request.reusePrefix ? request.blockHashes : NO_HASHES,
      attention: request.attention,
      tenant: request.tenant,
      priority: request.priority,
      ttftDeadlineMs: request.ttftDeadlineMs,
    })
    // Refused at once: the queue is full.
    if (session.failure) throw session.failure
    return session
  }

  request(id: string, tenantSalt?: Uint8Array): RequestReport | undefined {
    return this.#store.report(id, tenantSalt)
  }

  kv(): KvReport {
    const nowMs = this.#options.clock.nowMs()
    return kvReport(this.#core, (device) => this.#watch.advertisement(device), nowMs)
  }

  completions(): CompletionHistory {
    return this.#completions.history()
  }

  evict(deviceIds: readonly string[], drop: boolean): Promise<readonly KvEviction[]> {
    return evictBlocks(this.#options.bus, deviceIds, drop)
  }

  cluster(): ClusterReport {
    const nowMs = this.#options.clock.nowMs()
    return {
      coordinatorId: this.#options.coordinatorId,
      busConnected: this.#core.view.busConnected,
      queuedRequests: this.#core.queuedCount,
      activeRequests: this.#core.activeCount,
      devices: deviceReports(this.#core.view, this.#watch, nowMs),
    }
  }

  retrievalNodes(): readonly RetrievalNode[] {
    const nowMs = this.#options.clock.nowMs()
    return retrievalNodes(this.#core.view, (device) => this.#watch.advertisement(device), nowMs)
  }

  models(): readonly ModelReport[] {
    return modelReports(this.#core, this.#watch, this.#options.clock.nowMs())
  }

  modelTraits(digest: string): ModelTraits | undefined {
    if (!this.#traits.has(digest)) {
      // Of digests that nobody has none is kept: there is no end to them.
      const traits = modelTraits(this.#core.view, digest)
      if (!traits) return undefined
      this.#traits.set(digest, traits)
    }
    return this.#traits.get(digest)
  }

  advertisedModels(): readonly AdvertisedModel[] {
    return advertisedModels(this.#core.view)
  }

  onModels(listener: () => void): void {
    this.#modelListeners.push(listener)
  }

  modelFiles(device: DeviceRef): DeviceClient['models'] {
    return this.#clients.of(device).models
  }

  async loadModel(deviceIds: readonly string[], order: LoadOrder): Promise<readonly LoadAnswer[]> {
    const answers = await loadOnDevices(this.#options.bus, deviceIds, order)
    for (const { deviceId, error } of answers) {
      if (error === null) this.#watch.loadBegins(deviceId, order.model)
    }
    return answers
  }

  unloadModel(orders: readonly UnloadOrder[], drainMs: number): Promise<readonly UnloadAnswer[]> {
    return unloadOnDevices(this.#options.bus, orders, drainMs)
  }

  async drain(deadlineMs: number): Promise<void> {
    this.#isDraining = true
    const untilMs = this.#options.clock.nowMs() + deadlineMs
    while (this.#store.sessions().length > 0 && this.#options.clock.nowMs() < untilMs) {
      await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS))
    }
    this.#failAll()
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#isDraining = true
    const hadWork = this.#store.sessions().length > 0
    this.#failAll()
    this.#watch.close()
    clearInterval(this.#ticker)
    if (hadWork) await new Promise((resolve) => setTimeout(resolve, CLOSE_GRACE_MS))
    this.#clients.close()
  }

  #failAll(): void {
    for (const session of this.#store.sessions()) session.shutDown(shuttingDown(session.requestId))
  }

  #ended(session: RequestSession, completion: CompletionRecord | undefined): void {
    this.#store.end(session)
    if (!completion) return
    const facts = (deviceId: string) => this.#core.view.device(deviceId)?.facts
    this.#completions.add(session.report(), completion, facts)
    this.#tell({ type: 'completed', record: completion })
  }

  #tell(event: CoordinatorEvent): void {
    this.#events.push(event)
    if (this.#isStepping) return
    this.#isStepping = true
    try {
      for (let next = this.#events.shift(); next; next = this.#events.shift()) {
        for (const action of this.#core.step(next, this.#options.clock.nowMs())) this.#do(action)
        if (next.type === 'advertised') this.#noticeModels(next.device.deviceId)
      }
    } finally {
      this.#isStepping = false
    }
  }

  #do(action: CoordinatorAction): void {
    switch (action.type) {
      case 'check-health':
        void this.#checkHealth(action.device, action.timeoutMs)
        break
      case 'snapshot':
        void this.#snapshot(action.device, action.timeoutMs)
        break
      case 'forget-device':
        this.#clients.forget(action.device)
        this.#watch.forget(action.device)
        this.#noticeModels(action.device.deviceId)
        break
      case 'fail':
        this.#fail(action)
        break
      default:
        this.#store.live(action.requestId)?.act(action)
    }
  }

  #noticeModels(deviceId: string): void {
    const device = this.#core.view.device(deviceId)
    const told = device && JSON.stringify(device.facts.models)
    if (told === this.#toldModels.get(deviceId)) return
    if (told === undefined) this.#toldModels.delete(deviceId)
    else this.#toldModels.set(deviceId, told)
    this.#traits.clear()
    for (const listener of this.#modelListeners) listener()
  }

  async #checkHealth(device: DeviceRef, timeoutMs: number): Promise<void> {
    const control = this.#watch.advertisement(device)?.endpoints?.control
    const ok = control !== undefined && (await checkHealth(control, timeoutMs))
    this.#tell({ type: 'health', device, ok })
  }

  async #snapshot(device: DeviceRef, timeoutMs: number): Promise<void> {
    let snapshot: KvSnapshot | null = null
    try {
      const parts: SnapshotResponse[] = []
      const { kv } = this.#clients.of(device)
      for await (const part of callServerStream(kv, 'snapshot', {}, { timeoutMs })) parts.push(part)
      snapshot = readSnapshot(parts, device.incarnation)
    } catch (thrown) {
      this.#options.log.debug({ ...device }, `no snapshot of its blocks: ${messageOf(thrown)}`)
    }
    this.#tell({ type: 'kv-snapshot', device, snapshot })
  }

  #fail(action: Extract<CoordinatorAction, { type: 'fail' }>): void {
    const session = this.#store.live(action.requestId)
    if (!session) return
    const { code, message, retryAfterMs, requestId, shed } = action
    const ids = { requestId }
    const error =
      code === 'deadline'
        ? new DeadlineError(message, { ids })
        : shed
          ? new ShedError(message, shed, requestId, retryAfterMs)
          : new UnavailableError(message, { ids, retryAfterMs })
    session.fail(error, code === 'rejected')
  }
}

function shuttingDown(requestId: string): KvasirError {
  const message = 'This coordinator is shutting down; send the request to another or try again in a moment.'
  return new UnavailableError(message, { retryAfterMs: 1_000, ids: { requestId } })
}
