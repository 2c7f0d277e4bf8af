/** Requests as a client makes them: the official OpenAI client, with the ids that our headers carry. */
import OpenAI from 'openai'
import type { TestCluster } from './cluster.js'

export const storyPrompt = 'Once upon a time there was a wolf who'

export function openai(cluster: TestCluster, apiKey = 'none'): OpenAI {
  return new OpenAI({ apiKey, baseURL: `${cluster.url}/v1`, maxRetries: 0, timeout: 60_000 })
}

export interface StreamResult {
  readonly requestId: string
  readonly traceId: string
  readonly text: string
  readonly finishReason: string | null
  readonly completionTokens: number | undefined
  /** With `return_token_ids` among the fields. */
  readonly tokens: readonly number[]
  readonly numericsChanged: boolean | undefined
}

/** Extensions of the API that the official client does not know. */
interface Extended {
  readonly kvasir?: { readonly numerics_changed: boolean }
  readonly choices: readonly { readonly token_ids?: readonly number[] }[]
}

export interface StreamOptions {
  /** The bundled one by default. */
  readonly model?: string
  readonly prompt?: string
  readonly maxTokens: number
  readonly seed?: number
  readonly temperature?: number
  readonly signal?: AbortSignal
  readonly apiKey?: string
  /** Extensions of the API, such as `attention`. */
  readonly fields?: Readonly<Record<string, unknown>>
  /** Called with the number of text chunks so far; awaited, so that a test may act in mid-stream. */
  readonly onChunk?: (chunks: number, requestId: string) => void | Promise<void>
}

/** One streamed completion that does not end early, so that its length is known. */
export async function streamCompletion(cluster: TestCluster, options: StreamOptions): Promise<StreamResult> {
  const { data, response } = await openai(cluster, options.apiKey)
    .completions.create(
      {
        model: options.model ?? 'skald',
        prompt: options.prompt ?? storyPrompt,
        max_tokens: options.maxTokens,
        seed: options.seed ?? 7,
        temperature: options.temperature ?? 0,
        stream: true,
        stream_options: { include_usage: true },
        // An extension: the text goes on past the model's end-of-text token.
        ...{ ignore_eos: true, ...options.fields },
      },
      options.signal ? { signal: options.signal } : {},
    )
    .withResponse()
  const requestId = response.headers.get('x-kvasir-request-id') ?? ''
  let text = ''
  let chunks = 0
  let finishReason: string | null = null
  let completionTokens: number | undefined
  let numericsChanged: boolean | undefined
  const tokens: number[] = []
  for await (const chunk of data) {
    const choice = chunk.choices[0]
    text += choice?.text ?? ''
    finishReason = choice?.finish_reason ?? finishReason
    completionTokens = chunk.usage?.completion_tokens ?? completionTokens
    const extended = chunk as typeof chunk & Extended
    tokens.push(...(extended.choices[0]?.token_ids ?? []))
    numericsChanged = extended.kvasir?.numerics_changed ?? numericsChanged
    chunks += 1
    await options.onChunk?.(chunks, requestId)
  }
  return {
    requestId,
    traceId: response.headers.get('x-kvasir-trace-id') ?? '',
    text,
    finishReason,
    completionTokens,
    tokens,
    numericsChanged,
  }
}
