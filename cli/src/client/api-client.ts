/** Calls a cluster's HTTP API; failures become errors that can be shown as they stand. */
import {
  InvalidInputError,
  KvasirError,
  NotFoundError,
  OverloadedError,
  UnavailableError,
  UnreachableError,
} from '@kvasir/runtime/errors'

/** For calls that answer at once; a generation has no deadline of ours, its server has one. */
export const answerMsMax = 10_000

export interface ApiCall {
  readonly method?: 'GET' | 'POST' | 'DELETE'
  /** Sent as JSON. */
  readonly body?: object
  /** Sent as it comes; its type is in `headers`. */
  readonly stream?: AsyncIterable<Uint8Array>
  readonly headers?: Readonly<Record<string, string>>
  readonly signal?: AbortSignal
}

/**
 * @throws UnreachableError where nothing answers, else an error by the answer's status whose
 *   message is the server's
 */
export async function callApi(url: string, path: string, call: ApiCall = {}): Promise<Response> {
  let response: Response
  try {
    response = await fetch(`${url}${path}`, {
      method: call.method ?? 'GET',
      headers: {
        ...(call.body === undefined ? {} : { 'content-type': 'application/json' }),
        ...authorization(process.env),
        ...call.headers,
      },
      ...bodyOf(call),
      ...(call.signal === undefined ? {} : { signal: call.signal }),
    })
  } catch (error) {
    if (call.signal?.aborted) throw KvasirError.from(call.signal.reason)
    throw new UnreachableError(
      `Nothing answers at ${url}: check with \`npx kvasir status\` that the cluster runs.`,
      { cause: error },
    )
  }
  if (response.ok) return response
  throw await errorOfResponse(response, path)
}

function bodyOf({ body, stream }: ApiCall): RequestInit {
  if (stream !== undefined) return { body: ReadableStream.from(stream), duplex: 'half' }
  return body === undefined ? {} : { body: JSON.stringify(body) }
}

/** The JSON of a call that answers at once. The caller knows its shape: both ends are of one version. */
export async function callJson<T>(url: string, path: string): Promise<T> {
  const response = await callApi(url, path, { signal: AbortSignal.timeout(answerMsMax) })
  return (await response.json()) as T
}

/** An error in OpenAI's shape, in a body or in a stream; undefined where it is none. */
export function apiErrorMessage(body: unknown): string | undefined {
  if (typeof body !== 'object' || body === null || !('error' in body)) return undefined
  const { error } = body
  if (typeof error !== 'object' || error === null || !('message' in error)) return undefined
  return String(error.message)
}

/** The key to send: the client's own, else one of those that a coordinator on this machine was given. */
function authorization(environment: NodeJS.ProcessEnv): Record<string, string> {
  const key = environment.KVASIR_API_KEY || environment.KVASIR_API_KEYS?.split(',')[0]?.trim()
  return key ? { authorization: `Bearer ${key}` } : {}
}

async function errorOfResponse(response: Response, path: string): Promise<KvasirError> {
  const text = await response.text()
  const message = messageOfBody(text) ?? `The cluster answered ${path} with HTTP ${response.status}.`
  const retryAfterSeconds = Number(response.headers.get('retry-after') ?? Number.NaN)
  const retry = Number.isFinite(retryAfterSeconds) ? { retryAfterMs: retryAfterSeconds * 1000 } : {}
  if (response.status === 404) return new NotFoundError(message)
  if (response.status === 429) return new OverloadedError(message, retry)
  if (response.status >= 500) return new UnavailableError(message, retry)
  return new InvalidInputError(message)
}

function messageOfBody(text: string): string | undefined {
  try {
    return apiErrorMessage(JSON.parse(text))
  } catch {
    return undefined
  }
}
