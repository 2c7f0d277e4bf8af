/**
 * One streamed generation as a client of the HTTP API sees it, with the times at which its
 * tokens arrived.
 *
 * Times are milliseconds from sending the request, on this process's clock. A chunk may bring
 * several tokens; each has the time of its chunk.
 */
import { InternalError, InvalidInputError, UnavailableError } from '@kvasir/runtime/errors'
import { apiErrorMessage, callApi } from './api-client.js'
import { sseEvents } from './sse.js'

export interface GenerationWish {
  readonly model: string
  /** Text, or token ids that are taken as they are. */
  readonly prompt: string | readonly number[]
  /** Through the chat template, as one user message; only for a text prompt. */
  readonly chat: boolean
  readonly maxTokens?: number
  readonly temperature?: number
  readonly topP?: number
  readonly seed?: number
  readonly ignoreEos?: boolean
  /** False neither uses cached blocks nor leaves any. */
  readonly cachePrompt?: boolean
  readonly profile?: string
  readonly mergeLayers?: number
  /** Higher is more urgent. */
  readonly priority?: number
  readonly ttftDeadlineMs?: number
  /** How decoding attends; docs/api.md says what it takes. */
  readonly attention?: object
  /** What to retrieve documents from. */
  readonly retrieval?: { readonly corpus: string; readonly k?: number }
  readonly headers?: Readonly<Record<string, string>>
}

export interface GenerationResult {
  readonly requestId: string
  readonly traceId: string
  readonly text: string
  readonly tokens: readonly number[]
  readonly finishReason: string
  readonly numericsChanged: boolean
  readonly usage: {
    readonly promptTokens: number
    readonly completionTokens: number
    readonly cachedTokens: number
  }
  /** One for each token. */
  readonly tokenMs: readonly number[]
}

interface Chunk {
  readonly choices?: readonly {
    readonly text?: string
    readonly delta?: { readonly content?: string | null }
    readonly token_ids?: readonly number[]
    readonly finish_reason?: string | null
  }[]
  readonly usage?: {
    readonly prompt_tokens: number
    readonly completion_tokens: number
    readonly prompt_tokens_details?: { readonly cached_tokens?: number }
  } | null
  readonly kvasir?: { readonly numerics_changed?: boolean }
}

/**
 * @param onText called with each piece of text as it arrives
 * @throws a KvasirError with the server's sentence; UnavailableError where the stream breaks off
 */
export async function generate(
  url: string,
  wish: GenerationWish,
  signal: AbortSignal,
  onText: (text: string) => void = () => {},
): Promise<GenerationResult> {
  const begin = performance.now()
  const response = await callApi(url, wish.chat ? '/v1/chat/completions' : '/v1/completions', {
    method: 'POST',
    body: requestBody(wish),
    signal,
    ...(wish.headers === undefined ? {} : { headers: wish.headers }),
  })
  if (response.body === null) throw new InternalError('The cluster answered without a body.')
  const state = { text: '', tokens: [] as number[], tokenMs: [] as number[], numericsChanged: false }
  let finishReason: string | undefined
  let usage: Chunk['usage']
  try {
    for await (const data of sseEvents(response.body)) {
      if (data === '[DONE]') break
      const chunk = parseChunk(data)
      const choice = chunk.choices?.[0]
      const piece = choice?.delta?.content ?? choice?.text ?? ''
      const nowMs = performance.now() - begin
      for (const token of choice?.token_ids ?? []) {
        state.tokens.push(token)
        state.tokenMs.push(nowMs)
      }
      if (piece !== '') {
        state.text += piece
        onText(piece)
      }
      finishReason = choice?.finish_reason ?? finishReason
      usage = chunk.usage ?? usage
      state.numericsChanged = chunk.kvasir?.numerics_changed ?? state.numericsChanged
    }
  } catch (error) {
    throw signal.aborted || error instanceof InvalidInputError || error instanceof UnavailableError
      ? error
      : new UnavailableError('The connection to the cluster broke off in mid-answer: try again.', {
          cause: error,
        })
  }
  if (finishReason === undefined) {
    throw new UnavailableError('The answer ended without a finish reason: the cluster stopped; try again.')
  }
  return {
    ...state,
    requestId: response.headers.get('x-kvasir-request-id') ?? '',
    traceId: response.headers.get('x-kvasir-trace-id') ?? '',
    finishReason,
    usage: {
      promptTokens: usage?.prompt_tokens ?? 0,
      completionTokens: usage?.completion_tokens ?? state.tokens.length,
      cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0,
    },
  }
}

function requestBody(wish: GenerationWish): object {
  const prompt = wish.chat ? { messages: [{ role: 'user', content: wish.prompt }] } : { prompt: wish.prompt }
  return {
    model: wish.model,
    ...prompt,
    stream: true,
    stream_options: { include_usage: true },
    return_token_ids: true,
    ...(wish.maxTokens === undefined ? {} : { max_tokens: wish.maxTokens }),
    ...(wish.temperature === undefined ? {} : { temperature: wish.temperature }),
    ...(wish.topP === undefined ? {} : { top_p: wish.topP }),
    ...(wish.seed === undefined ? {} : { seed: wish.seed }),
    ...(wish.ignoreEos === undefined ? {} : { ignore_eos: wish.ignoreEos }),
    ...(wish.cachePrompt === undefined ? {} : { cache_prompt: wish.cachePrompt }),
    ...(wish.profile === undefined ? {} : { profile: wish.profile }),
    ...(wish.mergeLayers === undefined ? {} : { kv: { merge_layers: wish.mergeLayers } }),
    ...(wish.priority === undefined ? {} : { priority: wish.priority }),
    ...(wish.ttftDeadlineMs === undefined ? {} : { slo: { ttft_ms: wish.ttftDeadlineMs } }),
    ...(wish.attention === undefined ? {} : { attention: wish.attention }),
    ...(wish.retrieval === undefined ? {} : { retrieval: wish.retrieval }),
  }
}

function parseChunk(data: string): Chunk {
  const chunk: unknown = JSON.parse(data)
  const message = apiErrorMessage(chunk)
  if (message !== undefined) throw new UnavailableError(message)
  return chunk as Chunk
}

/** Time to the first token, ms; undefined where none came. */
export function ttftMsOf(result: Pick<GenerationResult, 'tokenMs'>): number | undefined {
  return result.tokenMs[0]
}

/** Mean time from a token to the next, ms; undefined with fewer than two. */
export function tpotMsOf(result: Pick<GenerationResult, 'tokenMs'>): number | undefined {
  const [first, last] = [result.tokenMs[0], result.tokenMs.at(-1)]
  if (first === undefined || last === undefined || result.tokenMs.length < 2) return undefined
  return (last - first) / (result.tokenMs.length - 1)
}
