/**
 * What the two shapes of an answer (chat and text completion) have in common.
 */
import type { AttentionReport, ProfileName, RequestReport } from '../generation.js'
import type { Piece, PlacedToken } from './text-assembler.js'

export type FinishReason = 'stop' | 'length'

/** Fixed for one answer, and so part of the constant beginning of every chunk. */
export interface AnswerIdentity {
  readonly requestId: string
  readonly model: string
  /** Seconds since 1970. */
  readonly createdSeconds: number
}

export interface AnswerOptions {
  readonly logprobs: boolean
  readonly topLogprobs: number
  readonly returnTokenIds: boolean
  readonly includeUsage: boolean
}

export interface Usage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  readonly prompt_tokens_details: { readonly cached_tokens: number }
}

/** Kvasir's own part of an answer, in its last chunk. */
export interface AnswerExtension {
  readonly request_id: string
  readonly trace_id: string
  /** Numerics of the last placement; absent where there was none. */
  readonly profile?: ProfileName | undefined
  /** Whether a part was computed with other numerics than the rest, after a device was lost. */
  readonly numerics_changed: boolean
  /** Devices whose times are those of a catalogued one, with which model; absent where all times are real. */
  readonly modelled?: readonly {
    readonly device_id: string
    readonly device: string
    readonly model: string
    readonly preset: string
  }[]
  /** Absent where the request was never placed. */
  readonly attention?: {
    readonly method: AttentionReport['method']
    readonly place: AttentionReport['place']
    /** The device that answered queries; null where it was the decoding one. */
    readonly attend_device: string | null
    /** Pages attended to ÷ pages there were; 1 for dense attention. */
    readonly pages_read_share: number
  }
  /** Absent where nothing was to be retrieved. */
  readonly retrieval?: {
    readonly corpus: string
    /** Those put before the question, best first. */
    readonly documents: readonly {
      readonly id: string
      readonly title: string
      readonly score: number
      /** Cut at a word, since the context had no room for the rest. */
      readonly truncated: boolean
    }[]
    /** Documents found that the context had no room for. */
    readonly omitted: number
  }
}

export function attentionExtension(report: AttentionReport): NonNullable<AnswerExtension['attention']> {
  const { method, place, attendDevice, pages, pagesRead } = report
  return {
    method,
    place,
    attend_device: attendDevice,
    pages_read_share: pages > 0 ? pagesRead / pages : 1,
  }
}

export function modelledExtension(
  modelled: RequestReport['modelled'],
): NonNullable<AnswerExtension['modelled']> {
  return modelled.map(({ deviceId, ...pace }) => ({ device_id: deviceId, ...pace }))
}

export interface AnswerEnd {
  readonly reason: FinishReason
  readonly usage: Usage
  readonly extension: AnswerExtension
}

/** Writes one answer. Chunks are whole server-sent events. */
export interface AnswerFormat {
  /** The completion's id. */
  readonly id: string
  /** Goes out before the first piece; may be empty. */
  readonly opening: string
  piece(piece: Piece): string
  /** The finish reason, the usage where asked for, and the end mark. */
  closing(end: AnswerEnd): string
  /** The answer in one piece. */
  whole(piece: Piece, end: AnswerEnd): object
}

/** The part of a text model that log probabilities need. */
export interface TokenTexts {
  tokenText(tokenId: number): string
  tokenBytes(tokenId: number): Uint8Array
}

export const STREAM_END = 'data: [DONE]\n\n'

/** JSON has no infinity; OpenAI writes this for a token that is all but impossible. */
const LOGPROB_MIN = -9999

export function finiteLogprob(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : LOGPROB_MIN
}

/** The completion's id, made of the request's, so that either finds the other. */
export function answerId(prefix: 'chatcmpl' | 'cmpl', requestId: string): string {
  return requestId.replace(/^req-/, `${prefix}-`)
}

/** A request id from a request id, a completion's id or anything else, which is left alone. */
export function requestIdOf(id: string): string {
  return id.replace(/^(chatcmpl|cmpl)-/, 'req-')
}

export function tokenIds(tokens: readonly PlacedToken[]): number[] {
  return tokens.map(({ token }) => token.id)
}

/** An event of an error in mid-stream, after which the stream ends. */
export function errorEvent(body: object): string {
  return `data: ${JSON.stringify(body)}\n\n`
}
