/**
 * One streamed completion as it is on the wire: every event counted, so that a test sees what the
 * official client would hide, such as an end mark after an error.
 */

export interface RawStream {
  readonly status: number
  readonly retryAfter: string | null
  readonly requestId: string
  readonly text: string
  readonly finishReasons: readonly string[]
  readonly completionTokens: number | undefined
  readonly doneCount: number
  readonly errorCount: number
  /** The last error, of the response or of an event. */
  readonly error: { readonly message: string; readonly type: string; readonly code: string } | undefined
  /** The client went away before the end. */
  readonly left: boolean
}

interface ChunkBody {
  readonly choices?: readonly { readonly text: string; readonly finish_reason: string | null }[]
  readonly usage?: { readonly completion_tokens: number } | null
  readonly error?: RawStream['error']
}

export async function readRawStream(
  url: string,
  options: {
    readonly body: object
    readonly leavesAfter?: number | undefined
    readonly onChunk?: ((chunks: number) => void) | undefined
  },
): Promise<RawStream> {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...options.body, stream: true, stream_options: { include_usage: true } }),
    signal: AbortSignal.timeout(60_000),
  })
  const result = {
    status: response.status,
    retryAfter: response.headers.get('retry-after'),
    requestId: response.headers.get('x-kvasir-request-id') ?? '',
    text: '',
    finishReasons: [] as string[],
    completionTokens: undefined as number | undefined,
    doneCount: 0,
    errorCount: 0,
    error: undefined as RawStream['error'],
    left: false,
  }
  if (!response.ok) {
    const { error } = (await response.json()) as ChunkBody
    return { ...result, error, errorCount: 1 }
  }
  let chunks = 0
  for await (const event of eventsOf(response)) {
    if (event === '[DONE]') {
      result.doneCount += 1
      continue
    }
    const chunk = JSON.parse(event) as ChunkBody
    if (chunk.error) {
      result.error = chunk.error
      result.errorCount += 1
    }
    const choice = chunk.choices?.[0]
    result.text += choice?.text ?? ''
    if (choice?.finish_reason) result.finishReasons.push(choice.finish_reason)
    result.completionTokens = chunk.usage?.completion_tokens ?? result.completionTokens
    chunks += 1
    options.onChunk?.(chunks)
    if (chunks === options.leavesAfter) {
      result.left = true
      // Leaving the loop closes the connection.
      break
    }
  }
  return result
}

async function* eventsOf(response: Response): AsyncGenerator<string> {
  const decoder = new TextDecoder()
  let pending = ''
  for await (const bytes of response.body ?? []) {
    pending += decoder.decode(bytes, { stream: true })
    const events = pending.split('\n\n')
    pending = events.pop() ?? ''
    for (const event of events) yield event.replace(/^data: /, '')
  }
}
