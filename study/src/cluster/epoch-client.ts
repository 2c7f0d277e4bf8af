/** What the calls of one epoch tell the coordinator; each is called when the message has arrived there. */
import type { Fault } from '@kvasir/coordinator/core/protocol'
import type { KvTimes } from './outgoing-kv.js'

export interface PrefillFigures {
  readonly deviceId: string
  readonly tokens: number
  readonly contextTokens: number
  readonly localTokens: number
  readonly fetchedTokens: number
  readonly fetchedBytes: number
  readonly fetchMs: number
  /** From its first step to its last. */
  readonly computeMs: number
  /** Of that time, its share of the steps. */
  readonly shareMs: number
}

/** What came of a prompt's cached beginning: tokens of the device's own, and what was fetched. */
export interface PromptReuse {
  readonly localTokens: number
  readonly fetched: { readonly tokens: number; readonly bytes: number; readonly ms: number }
}

export function prefillFigures(
  deviceId: string,
  promptTokens: number,
  { localTokens, fetched }: PromptReuse,
  { computeMs, shareMs }: Pick<PrefillFigures, 'computeMs' | 'shareMs'>,
): PrefillFigures {
  const contextTokens = localTokens + fetched.tokens
  return {
    ...{ deviceId, contextTokens, localTokens, computeMs, shareMs },
    tokens: promptTokens - contextTokens,
    fetchedTokens: fetched.tokens,
    fetchedBytes: fetched.bytes,
    fetchMs: fetched.ms,
  }
}

export interface DecodeFigures {
  readonly steps: number
  readonly stepsMs: number
  readonly batchMax: number
}

export interface EpochClient {
  prefillAdmitted(): void
  prefillFinished(stopped: boolean, figures: PrefillFigures): void
  kvSent(times: KvTimes): void
  /** `prefilled`: where the decoding device computed the prompt itself; `heldTokens`: else, what it had of it. */
  decodeStarted(started: { readonly prefilled?: PrefillFigures; readonly heldTokens?: number }): void
  tokens(firstIndex: number, count: number): void
  decodeFinished(reason: 'stop' | 'length' | 'preempted', figures: DecodeFigures): void
  failed(call: 'prefill' | 'decode', fault: Fault, deviceId: string): void
}

/** A placement of a request, as its calls carry it. */
export interface EpochOrder {
  readonly requestId: string
  readonly epoch: number
  /** Tokens whose KV is needed before decoding goes on: the prompt and what was emitted. */
  readonly promptTokens: number
  /** Index of the next token. */
  readonly firstIndex: number
  readonly maxTokens: number
  /** Index of the token at which the model stops, which is not emitted; Infinity where length ends it. */
  readonly stopIndex: number
  readonly names: readonly string[]
  readonly client: EpochClient
}

export function transferKey({ requestId, epoch }: Pick<EpochOrder, 'requestId' | 'epoch'>): string {
  return `${requestId}.${epoch}`
}
