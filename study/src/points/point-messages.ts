/** What a pool and its worker threads say to each other; an error keeps its class on the way. */
import { errorOf, isErrorCode, KvasirError, messageOf } from '@kvasir/runtime/errors'

/** To a worker: compute one point. */
export interface PointTask {
  readonly module: string
  readonly input: unknown
}

/** From a worker, about the point it has. */
export type PointReport =
  | { readonly kind: 'share'; readonly share: number }
  | { readonly kind: 'done'; readonly result: unknown }
  | { readonly kind: 'failed'; readonly error: SentError }

/** A structured clone keeps the built-in classes of errors and turns every other into Error. */
export type SentError =
  | { readonly kind: 'plain'; readonly error: unknown }
  | {
      readonly kind: 'kvasir'
      readonly code: string
      readonly message: string
      readonly ids: Readonly<Record<string, string>>
      readonly param?: string
      readonly retryAfterMs?: number
      readonly stack?: string
    }

export function toSent(thrown: unknown): SentError {
  if (thrown instanceof KvasirError) {
    const { code, message, ids, param, retryAfterMs, stack } = thrown
    return {
      kind: 'kvasir',
      code,
      message,
      ids,
      ...(param === undefined ? {} : { param }),
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
      ...(stack === undefined ? {} : { stack }),
    }
  }
  return { kind: 'plain', error: clonable(thrown) ? thrown : new Error(messageOf(thrown)) }
}

/** A DOMException arrives as an empty object, and what holds a function not at all. */
function clonable(thrown: unknown): boolean {
  try {
    return structuredClone(thrown) instanceof Error
  } catch {
    return false
  }
}

export function fromSent(sent: SentError): unknown {
  if (sent.kind === 'plain') return sent.error
  const { code, message, ids, param, retryAfterMs, stack } = sent
  const error = errorOf(isErrorCode(code) ? code : 'internal', message, {
    ids,
    ...(param === undefined ? {} : { param }),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  })
  if (stack !== undefined) error.stack = stack
  return error
}
