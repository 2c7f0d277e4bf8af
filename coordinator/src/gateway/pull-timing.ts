/**
 * The header by which a measurement asks for KV to be sent after prefill instead of layer by layer.
 * A header and no field of the body: it changes how a request is served, never its answer.
 */
import { badRequest } from './api-error.js'

const HEADER = 'x-kvasir-pull-timing'

/** Throws ApiError (400) for a value that is neither `layered` nor `after-prefill`. */
export function pullTimingOf(headers: Readonly<Record<string, string | string[] | undefined>>): {
  readonly pullTiming?: 'layered' | 'after-prefill'
} {
  const value = headers[HEADER]
  if (value === undefined) return {}
  if (value === 'layered' || value === 'after-prefill') return { pullTiming: value }
  throw badRequest(`The header ${HEADER} is "layered" or "after-prefill".`, 'invalid_value', HEADER)
}
