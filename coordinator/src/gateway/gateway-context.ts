/**
 * What the gateway's routes stand on.
 */
import type { Clock } from '@kvasir/runtime/clock'
import type { Logger } from '@kvasir/runtime/log'
import type { GenerationService, ProfileName } from '../generation.js'
import type { TextModels } from '../models/text-models.js'
import type { Corpora } from '../retrieval/corpora.js'
import type { TraceStore } from '../trace-store/trace-store.js'
import type { PromptEncoder } from './prompt-encoder.js'

export interface GatewayLimits {
  /** Largest request body that is read. */
  readonly bodyBytesMax: number
  /** Largest upload of documents, which is not held. */
  readonly uploadBytesMax: number
  /** What a slow client may leave unread before it is cut off. */
  readonly streamBufferBytesMax: number
  /** How long a client may take for the rest of a stream that has ended. */
  readonly streamDrainMs: number
}

export interface GatewayContext {
  readonly service: GenerationService
  readonly textModels: TextModels
  /** Numerics of requests that ask for none. */
  readonly profileDefault: ProfileName
  readonly encoder: PromptEncoder
  readonly corpora: Corpora
  readonly traces: TraceStore
  /** Bearer keys; with none, everyone may use the API. */
  readonly apiKeys: readonly string[]
  readonly limits: GatewayLimits
  readonly clock: Clock
  readonly log: Logger
}
