/** One stream's times, by the cluster as a client sees it and by the engine in this process. */
import type { LocalGenerator } from '@kvasir/engine/local-generator'
import { InternalError } from '@kvasir/runtime/errors'
import { type GenerationWish, generate, tpotMsOf, ttftMsOf } from '../client/generation.js'

export interface StreamWork {
  /** As the cluster names it. */
  readonly model: string
  readonly promptTokens: readonly number[]
  readonly newTokens: number
}

export interface StreamTimes {
  readonly ttftMs: number
  readonly tpotMs: number
  /** '' for the engine. */
  readonly requestId: string
}

/** @param wish what the request says besides */
export async function clusterStream(
  url: string,
  work: StreamWork,
  signal: AbortSignal,
  wish: Pick<GenerationWish, 'headers' | 'mergeLayers'> = {},
): Promise<StreamTimes> {
  const result = await generate(
    url,
    {
      model: work.model,
      prompt: work.promptTokens,
      chat: false,
      maxTokens: work.newTokens,
      temperature: 0,
      ignoreEos: true,
      ...wish,
    },
    signal,
  )
  return { ...timesOf(result.tokenMs, work), requestId: result.requestId }
}

export async function engineStream(
  engine: LocalGenerator,
  work: StreamWork,
  signal: AbortSignal,
): Promise<StreamTimes> {
  const begin = performance.now()
  const tokenMs: number[] = []
  const generation = engine.generate(work.promptTokens, {
    sampling: { temperature: 0, topP: 1, topK: 0, seed: 0n, logprobs: false, topLogprobs: 0 },
    maxTokens: work.newTokens,
    stopTokens: [],
    signal,
  })
  for await (const _ of generation) tokenMs.push(performance.now() - begin)
  return { ...timesOf(tokenMs, work), requestId: '' }
}

function timesOf(tokenMs: readonly number[], work: StreamWork): { ttftMs: number; tpotMs: number } {
  const ttftMs = ttftMsOf({ tokenMs })
  const tpotMs = tpotMsOf({ tokenMs })
  if (ttftMs === undefined || tokenMs.length !== work.newTokens) {
    throw new InternalError(`A stream gave ${tokenMs.length} tokens instead of ${work.newTokens}.`)
  }
  return { ttftMs, tpotMs: tpotMs ?? 0 }
}

/**
 * Token ids that look random and differ for every seed, so that no stream finds another's
 * prefix cached. The lowest ids are left out: they are special tokens.
 */
export function promptOf(seed: number, tokens: number, vocabularySize: number): number[] {
  let state = (seed * 2_654_435_761) >>> 0
  return Array.from({ length: tokens }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return 16 + ((state >>> 8) % (vocabularySize - 16))
  })
}
