/**
 * What the gateway asks of the serving side: one generation, as a stream of tokens.
 *
 * The gateway owns text (tokenizer, chat template, stop strings, HTTP); the serving
 * side owns placement, devices and recovery. Nothing of HTTP crosses this line.
 */
import type { Sampling, Token } from '@kvasir/proto/kvasir/inference/v1/inference'

export interface GenerationRequest {
  readonly requestId: string
  /** Name of the model as a client gave it; already known to exist. */
  readonly model: string
  readonly promptTokens: readonly number[]
  /** Most tokens to generate; already clamped to the context. */
  readonly maxTokens: number
  readonly sampling: Sampling
  readonly tenantSalt: Uint8Array
  /** When KV blocks are sent; layer by layer unless told otherwise, which measurements compare with. */
  readonly pullTiming?: 'layered' | 'after-prefill'
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
  /** What `GET /v1/requests/{id}` shows; undefined where unknown or forgotten. By request id or trace id. */
  request(id: string): RequestReport | undefined
  /** What `GET /v1/cluster` shows. */
  cluster(): ClusterReport
  /** Models that some live device can serve from prompt to last token. */
  models(): readonly { readonly name: string; readonly digest: string; readonly contextTokensMax: number }[]
}

/** Why a device was or was not taken. Filters count devices by reason; scores are predicted seconds. */
export interface PlacementReport {
  readonly epoch: number
  readonly prefillDevice: string
  readonly decodeDevice: string
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
  }
}

export interface RequestReport {
  readonly requestId: string
  readonly traceId: string
  readonly model: string
  readonly state: 'queued' | 'reserving' | 'prefill' | 'decode' | 'finished' | 'failed' | 'cancelled'
  /** Every placement, the last one being in force. More than one means that a device was lost or gave up. */
  readonly placements: readonly PlacementReport[]
  readonly promptTokens: number
  readonly completionTokens: number
  readonly cachedTokens: number
  readonly numericsChanged: boolean
  /** Steps whose best two logits differed by less than 1e-4. */
  readonly nearTies: number
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
  }
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
  readonly models: readonly { readonly name: string; readonly digest: string; readonly profile: string }[]
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
  readonly lastHeardMs: number
  readonly endpoints: { readonly control: string; readonly kv: string }
}
