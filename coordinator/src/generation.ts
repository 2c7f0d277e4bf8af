/**
 * What the gateway asks of the serving side: one generation, as a stream of tokens.
 *
 * The gateway owns text (tokenizer, chat template, stop strings, HTTP); the serving
 * side owns placement, devices and recovery. Nothing of HTTP crosses this line.
 */
import type { Sampling, Token } from '@kvasir/proto/kvasir/inference/v1/inference'
import type { AttentionMethodName, AttentionWish } from './core/attention-wish.js'
import type { BlockHashes } from './core/block-hashes.js'
import type { CompletionHistory } from './core/completion-record.js'
import type { ProfileName } from './core/facts.js'
import type {
  DeviceModelReport,
  LoadAnswer,
  LoadOrder,
  ModelArrivalReport,
  ModelReport,
  ModelTraits,
  UnloadAnswer,
  UnloadOrder,
} from './model-reports.js'

export type { AttentionMethodName, AttentionWish } from './core/attention-wish.js'
export type { ProfileName } from './core/facts.js'

/** Layers whose KV blocks may be read and sent together. */
export const MERGE_LAYERS = [1, 2, 4, 8] as const
export type MergeLayers = (typeof MERGE_LAYERS)[number]

export interface GenerationRequest {
  readonly requestId: string
  /** Name of the model as a client gave it. */
  readonly model: string
  /** What that name stands for: only devices with exactly this digest serve it. */
  readonly modelDigest: string
  /** Numerics asked for. */
  readonly profile: ProfileName
  readonly promptTokens: readonly number[]
  /** Most tokens to generate; already clamped to the context. */
  readonly maxTokens: number
  readonly sampling: Sampling
  readonly tenantSalt: Uint8Array
  /** Hashes of the prompt's full blocks under the tenant's salt, in order. */
  readonly blockHashes: BlockHashes
  /** Whether cached blocks are used and left behind. */
  readonly reusePrefix: boolean
  /** How decoding attends, as the client asked; undefined leaves it to the coordinator. */
  readonly attention: AttentionWish | undefined
  /** Among whom devices are shared fairly; default ''. */
  readonly tenant?: string
  /** Higher is more urgent, from -10 to 10; default 0. */
  readonly priority?: number
  /** Until the first token; absent: as the coordinator is set. */
  readonly ttftDeadlineMs?: number | undefined
  /** What was retrieved for the prompt, for the report. */
  readonly retrieval: RetrievalReport | null
  /** When KV blocks are sent; layer by layer unless told otherwise, which measurements compare with. */
  readonly pullTiming?: 'layered' | 'after-prefill'
  /** Layers whose blocks are sent together; absent: as the sending device is set. */
  readonly mergeLayers?: MergeLayers | undefined
}

export type GenerationEvent =
  | { readonly type: 'tokens'; readonly tokens: readonly Token[] }
  /** Last event of a generation that worked. */
  | { readonly type: 'finished'; readonly reason: 'stop' | 'length' }

export interface Generation {
  /** Ends after `finished`, or throws a KvasirError. Tokens in order, each once (I3). */
  readonly events: AsyncIterable<GenerationEvent>
  /** Stops the work and frees its memory; `events` ends. Idempotent. */
  cancel(cause: 'client-gone' | 'stop-string' | 'slow-client'): void
}

/** The requests that the serving side knows, alive or recently ended. */
export interface GenerationService {
  /** Throws UnavailableError when the queue is full or the process drains. Runs in the caller's trace context. */
  submit(request: GenerationRequest): Generation
  /**
   * What `GET /v1/requests/{id}` shows; undefined where unknown or forgotten. By request id or trace id.
   * What was retrieved for it, which names a tenant's documents, only with that tenant's salt.
   */
  request(id: string, tenantSalt?: Uint8Array): RequestReport | undefined
  /** What `GET /v1/cluster` shows. */
  cluster(): ClusterReport
  /** What `GET /v1/kv` shows. */
  kv(): KvReport
  /** What `GET /v1/completions/history` shows: the last finished requests, for calibration. */
  completions(): CompletionHistory
  /** Asks devices to give up the blocks that nobody leases; never throws for one of them. */
  evict(deviceIds: readonly string[], drop: boolean): Promise<readonly KvEviction[]>
  /** Every model that some device has, is getting or could not get, by name. */
  models(): readonly ModelReport[]
  /** What devices that have a model say of it; undefined where none has it. */
  modelTraits(digest: string): ModelTraits | undefined
  /** Asks devices to load a model; never throws for one of them. Their reports tell how far they are. */
  loadModel(deviceIds: readonly string[], order: LoadOrder): Promise<readonly LoadAnswer[]>
  /** Asks devices to unload a model; never throws for one of them. */
  unloadModel(orders: readonly UnloadOrder[], drainMs: number): Promise<readonly UnloadAnswer[]>
}

/** Why a device was or was not taken. Filters count devices by reason; scores are predicted seconds. */
export interface PlacementReport {
  readonly epoch: number
  readonly prefillDevice: string
  readonly decodeDevice: string
  /** Of both devices. */
  readonly profile: ProfileName
  /** In which numbers the decoding device computes, such as w4a8+kv8. */
  readonly numerics: string
  /** One clear sentence. */
  readonly reason: string
  /** The best pairs weighed, at most eight, the chosen one first. */
  readonly weighed: readonly {
    readonly prefillDevice: string
    readonly decodeDevice: string
    readonly ttftMs: number
    readonly tpotMs: number
  }[]
  /** Devices turned away, by reason, for each role. */
  readonly filtered: {
    readonly prefill: Readonly<Record<string, number>>
    readonly decode: Readonly<Record<string, number>>
    /** For attending while another device decodes; empty where that was not looked for. */
    readonly attend: Readonly<Record<string, number>>
  }
}

/** One of the four stages (He et al.) of something a request used, where it ran and what it took. */
export interface StageReport {
  /** Which pipeline: prefix reuse, attention or retrieval. */
  readonly pipeline: 'prefix' | 'attention' | 'retrieval'
  readonly stage: 'prepare' | 'relevancy' | 'retrieval' | 'apply'
  /** What it is here, such as "BM25 over 2 shards". */
  readonly what: string
  readonly devices: readonly string[]
  /** Of the stage on this device, without the transfers into it. */
  readonly predictedMs: number | null
  /** Of moving its inputs to the device. */
  readonly transferMs: number | null
  readonly transferBytes: number
  readonly measuredMs: number | null
  /** The next best device and what the whole pipeline was predicted to take with it. */
  readonly alternative: { readonly devices: readonly string[]; readonly pipelineMs: number } | null
  /** One clear sentence. */
  readonly reason: string
}

/** A run of the prompt's blocks with one history. */
export interface BlockRun {
  readonly firstBlock: number
  readonly blocks: number
  readonly tokens: number
  /** Where the device that needed it got it from. */
  readonly source: 'local' | 'fetched' | 'computed'
  /** The device that held or computed it. */
  readonly device: string
  readonly tier: string | null
  /** Why it was not reused, or why it came from there; one sentence. */
  readonly reason: string
}

/** What became of the prompt's blocks in the last placement. */
export interface PrefixReport {
  readonly blocks: number
  readonly cachedTokens: number
  readonly fetchedBytes: number
  readonly fetchMs: number | null
  /** On the device that prefilled. */
  readonly runs: readonly BlockRun[]
  /** Tokens that the decoding device held itself, so that they were not sent to it. */
  readonly heldByDecodeTokens: number
}

/** How a request's decoding attended. */
export interface AttentionReport {
  readonly method: AttentionMethodName
  /** Pages that each KV head attends to at the end of the prompt, of how many. */
  readonly budgetPages: number
  readonly promptPages: number
  readonly place: 'local' | 'partial' | 'indices'
  /** The device that answers queries, where it is another than the decoding one. */
  readonly attendDevice: string | null
  readonly asked: boolean
  readonly reason: string
  /** Sums over steps, layers and KV heads. */
  readonly pages: number
  readonly pagesRead: number
  readonly wireBytes: number
  readonly remoteMs: number
}

/** What was retrieved for a request. */
export interface RetrievalReport {
  readonly corpus: string
  readonly k: number
  readonly documents: readonly { readonly id: string; readonly title: string; readonly score: number }[]
  readonly stages: readonly StageReport[]
}

/** How a request stood to others while it waited for its first place. */
export interface AdmissionReport {
  readonly priority: number
  /** Null where it has none. */
  readonly ttftDeadlineMs: number | null
  /** Null before it has a place. */
  readonly waitedMs: number | null
  /** Work that was before it when it came, tokens of prompts and expected answers. */
  readonly tokensAhead: number
  /** Why it waited, and in which order; one sentence. */
  readonly reason: string
}

export interface KvReport {
  readonly directory: {
    /** Distinct blocks known, the most that are kept, and device entries dropped to stay below it. */
    readonly blocks: number
    readonly blocksMax: number
    readonly droppedBlocks: number
    /** Devices whose events had a gap and whose snapshot is on its way. */
    readonly healing: readonly string[]
  }
  readonly devices: readonly KvDeviceReport[]
}

/** What became of one device's blocks. */
export interface KvEviction {
  readonly deviceId: string
  readonly blocks: number
  readonly error: string | null
}

export interface KvDeviceReport {
  readonly deviceId: string
  readonly kind: string
  readonly state: 'ready' | 'draining' | 'lost'
  /** Blocks that the directory knows on it. */
  readonly directoryBlocks: number
  readonly tiers: readonly {
    readonly name: string
    readonly kind: string
    readonly capacityBytes: number
    readonly leasedBytes: number
    readonly cachedBytes: number
    readonly bandwidthBytesPerSecond: number
    readonly modelled: boolean
    readonly lookups: number
    readonly hits: number
    /** hits ÷ lookups; null before the first lookup. */
    readonly hitRate: number | null
    readonly inBytes: number
    readonly outBytes: number
    readonly readBytes: number
    readonly droppedBlocks: number
  }[]
}

export interface RequestReport {
  readonly requestId: string
  readonly traceId: string
  readonly model: string
  /** Numerics asked for; each placement tells those that it was served in. */
  readonly profile: ProfileName
  readonly state: 'queued' | 'reserving' | 'prefill' | 'decode' | 'finished' | 'failed' | 'cancelled'
  /** Every placement, the last one being in force. More than one means that a device was lost or gave up. */
  readonly placements: readonly PlacementReport[]
  readonly promptTokens: number
  readonly completionTokens: number
  readonly cachedTokens: number
  /** Whether tokens were emitted by placements whose numerics could differ. */
  readonly numericsChanged: boolean
  /** Steps whose best two logits differed by less than 1e-4. */
  readonly nearTies: number
  readonly admission: AdmissionReport
  readonly finishReason: string | null
  readonly error: string | null
  readonly predicted: { readonly ttftMs: number; readonly tpotMs: number } | null
  readonly measured: {
    readonly queueMs: number | null
    readonly ttftMs: number | null
    readonly tpotMs: number | null
  }
  readonly kv: {
    readonly bytes: number
    readonly chunks: number
    /** 1 − exposed ÷ busy, 0 where nothing was hidden; null before the transfer ends or where there was none. */
    readonly overlap: number | null
    readonly bytesPerSecond: number | null
    /** What `bytes` stand for where their sender is paced: bytes of the catalogued model. Null else. */
    readonly modelledBytes: number | null
  }
  /** The devices of the last placement whose times are a catalogued device's; empty for real times. */
  readonly modelled: readonly (PaceReport & { readonly deviceId: string })[]
  /** Null before it is placed. */
  readonly prefix: PrefixReport | null
  readonly attention: AttentionReport | null
  readonly retrieval: RetrievalReport | null
  /** The four stages of each pipeline that the request used, in order. */
  readonly stages: readonly StageReport[]
  /** KV bytes that attention read while decoding, and that were moved, by tier. */
  readonly tierReads: readonly {
    readonly tier: string
    readonly readBytes: number
    readonly movedBytes: number
  }[]
}

/** Ids in the catalogue: whose times a device keeps, and for which model. The clock alone is not real. */
export interface PaceReport {
  readonly device: string
  readonly model: string
  readonly preset: string
}

export interface ClusterReport {
  readonly coordinatorId: string
  readonly busConnected: boolean
  readonly queuedRequests: number
  readonly activeRequests: number
  readonly devices: readonly DeviceReport[]
}

export interface DeviceReport {
  readonly deviceId: string
  readonly incarnation: string
  readonly kind: string
  readonly deviceModel: string
  readonly machine: string
  readonly state: 'ready' | 'draining' | 'lost'
  readonly capabilities: readonly string[]
  readonly models: readonly DeviceModelReport[]
  /** Models on their way to it, and for a minute those that could not be loaded. */
  readonly arrivals: readonly ModelArrivalReport[]
  /** Memory that models may take and do take, weights and KV together; null where it runs none. */
  readonly modelBytes: number | null
  readonly modelBytesUsed: number | null
  readonly decodeSlots: number
  readonly decodeSlotsUsed: number
  readonly prefillTokensWaiting: number
  readonly leases: number
  readonly tiers: readonly {
    readonly name: string
    readonly kind: string
    readonly capacityBytes: number
    readonly leasedBytes: number
    readonly bandwidthBytesPerSecond: number
  }[]
  readonly link: { readonly class: string; readonly bytesPerSecond: number }
  readonly modelled: boolean
  /** Null where its times are its own. */
  readonly pace:
    | (PaceReport & {
        /** Tokens of KV that it holds, and that the catalogued device would. */
        readonly kvTokens: number
        readonly cataloguedKvTokens: number
        readonly steps: number
        /** Steps that took this machine longer than the catalogued device, and by how much in all. */
        readonly lateSteps: number
        readonly lateMs: number
        readonly busyMs: number
      })
    | null
  readonly lastHeardMs: number
  readonly endpoints: { readonly control: string; readonly kv: string }
}
