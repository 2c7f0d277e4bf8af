/**
 * A sequence as its owner gives it to the device, and what the owner is told of it: the line between the
 * jobs that serve calls and the runner that joins core and driver (device-runner.ts, R1 and R2).
 */
import type { AttentionUse, StepSequence } from '@kvasir/engine/device-driver'
import type { SampledToken, SamplingParameters } from '@kvasir/engine/sampler'
import type { KvasirError } from '@kvasir/runtime/errors'
import type { EndReason, StepPart, TierTraffic } from './core/events.js'
import type { HashChain } from './hash-chain.js'

export interface SequenceOwner {
  /** A prefill has memory, with the KV of its first `cachedTokens` tokens. */
  admitted?(counter: bigint, cachedTokens: number, tokensAhead: number): void
  /** The device works on it for the first time. */
  started?(): void
  /** A layer has computed the first `tokens` tokens of the prompt. */
  layerComputed?(layer: number, tokens: number): void
  /** The prompt is computed; called before `sampled`. */
  promptComputed?(): void
  /** `stopped`: the token is a stop token, which is not emitted and ends the sequence. */
  sampled?(token: SampledToken, index: number, stopped: boolean): void
  /** What its row of a decode step adds: which pages it attends to, and whether another device answers for some. */
  attention?(part: StepPart): StepAttention
  /** A step has computed a chunk of its prompt; `shareUs`: of the step's time, what the chunk answers for. */
  chunkComputed?(shareUs: number): void
  /**
   * A step in which it decoded, with the number of sequences that shared it; `use`: what its attention
   * read, where that was tracked.
   */
  decoded?(elapsedUs: number, sequences: number, use: AttentionUse | undefined): void
  /** `error`: what went wrong where the reason is `failed`. `reads`: what its attention read, by tier. */
  ended(reason: EndReason, error: KvasirError | undefined, reads: readonly TierTraffic[]): void
}

export type StepAttention = Pick<StepSequence, 'attention' | 'remote' | 'trackPages'>

export interface SequenceStart {
  readonly id: number
  /** The prompt; sampled tokens are added here. */
  readonly tokens: number[]
  /** Index of the next token to be sampled. */
  readonly firstIndex: number
  readonly sampling: SamplingParameters
  readonly stopTokens: ReadonlySet<number>
  /** Its first tokens, which are known already and taken whatever would be sampled. */
  readonly replay?: readonly number[]
  /** Names its blocks; undefined where none is reused and none left behind. */
  readonly hashes: HashChain | undefined
  readonly owner: SequenceOwner
}

/** Of a sequence that is never in a step, since it only holds blocks: it has no tokens and samples none. */
export const NO_TOKENS: Pick<SequenceStart, 'firstIndex' | 'sampling' | 'stopTokens' | 'hashes'> = {
  firstIndex: 0,
  sampling: { temperature: 0, topP: 1, topK: 0, seed: 0n, logprobs: false, topLogprobs: 0 },
  stopTokens: new Set(),
  hashes: undefined,
}
