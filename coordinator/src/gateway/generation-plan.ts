/**
 * What a validated request asks for, whichever endpoint it came by.
 */
import type { z } from 'zod'
import type { AttentionWish, MergeLayers, ProfileName } from '../generation.js'
import { badRequest } from './api-error.js'
import { attentionWish } from './attention-field.js'
import type { sharedShape } from './request-fields.js'
import { type RetrievalWish, retrievalWish } from './retrieval-field.js'

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant'
  readonly content: string
}

export type Prompt =
  | { readonly kind: 'chat'; readonly messages: readonly ChatMessage[] }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tokens'; readonly tokens: readonly number[] }

export interface GenerationPlan {
  readonly model: string
  readonly prompt: Prompt
  /** Name of the field that holds the prompt, for errors about it. */
  readonly promptParam: 'messages' | 'prompt'
  readonly stream: boolean
  readonly includeUsage: boolean
  readonly temperature: number
  readonly topP: number
  /** 0 keeps all. */
  readonly topK: number
  /** Absent: a random one is drawn. */
  readonly seed: number | undefined
  readonly stops: readonly string[]
  readonly ignoreEos: boolean
  /** Absent: the rest of the context. */
  readonly maxTokens: number | undefined
  readonly logprobs: boolean
  readonly topLogprobs: number
  readonly returnTokenIds: boolean
  /** Whether cached KV is used and left behind. */
  readonly cachePrompt: boolean
  /** Numerics; absent: the coordinator's default. */
  readonly profile: ProfileName | undefined
  /** Layers whose KV is sent together; absent: as devices are set. */
  readonly mergeLayers: MergeLayers | undefined
  /** How decoding attends; absent: the coordinator decides. */
  readonly attention: AttentionWish | undefined
  /** Higher is more urgent. */
  readonly priority: number
  /** Until the first token; absent: the coordinator's default. */
  readonly ttftDeadlineMs: number | undefined
  /** As the client calls its own user. */
  readonly user: string | undefined
  /** Documents to put before the question. */
  readonly retrieval: RetrievalWish | undefined
}

type SharedFields = { [Name in keyof typeof sharedShape]?: z.infer<(typeof sharedShape)[Name]> | undefined }

/** The part of a plan that both endpoints read alike. */
export function sharedPlan(fields: SharedFields & { model: string }) {
  if (fields.stream_options !== undefined && fields.stream !== true) {
    throw badRequest('"stream_options" needs "stream": true.', 'invalid_value', 'stream_options')
  }
  const { stop = [] } = fields
  return {
    model: fields.model,
    stream: fields.stream ?? false,
    includeUsage: fields.stream_options?.include_usage ?? false,
    temperature: fields.temperature ?? 1,
    topP: fields.top_p ?? 1,
    topK: fields.top_k ?? 0,
    seed: fields.seed,
    stops: typeof stop === 'string' ? [stop] : stop,
    ignoreEos: fields.ignore_eos ?? false,
    returnTokenIds: fields.return_token_ids ?? false,
    cachePrompt: fields.cache_prompt ?? true,
    profile: fields.profile,
    mergeLayers: fields.kv?.merge_layers,
    attention: attentionWish(fields.attention),
    priority: fields.priority ?? 0,
    ttftDeadlineMs: fields.slo?.ttft_ms,
    user: fields.user,
    retrieval: retrievalWish(fields.retrieval),
  }
}
