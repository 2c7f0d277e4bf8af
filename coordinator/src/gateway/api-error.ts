/**
 * Errors as OpenAI's clients expect them: an HTTP status and {message, type, param, code}.
 *
 * Everything that is thrown on the way to an answer goes through `ApiError.from` once, at
 * the edge; whatever is not known to be the client's fault is a 5xx without inner details.
 */

import { type ErrorCode, KvasirError } from '@kvasir/runtime/errors'
import type { ShedReason } from '../core/protocol.js'
import { ShedError } from '../shed-error.js'

export type ApiErrorType =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'rate_limit_error'
  | 'service_unavailable_error'
  | 'server_error'

export interface ApiErrorBody {
  readonly error: {
    readonly message: string
    readonly type: ApiErrorType
    readonly param: string | null
    readonly code: string | null
  }
}

export interface ApiErrorFields {
  readonly status: number
  readonly message: string
  /** Stable word for programs. */
  readonly code: string
  /** The field of the request at fault. */
  readonly param?: string | undefined
  /** Given with every 429 and 503. */
  readonly retryAfterMs?: number | undefined
  /** Why the request was given up while it waited. */
  readonly shed?: ShedReason | undefined
  readonly cause?: unknown
}

const RETRY_AFTER_MS = 1_000

export class ApiError extends Error {
  readonly status: number
  readonly code: string
  readonly param: string | null
  readonly retryAfterMs: number | undefined
  readonly shed: ShedReason | undefined

  constructor(fields: ApiErrorFields) {
    super(fields.message, { cause: fields.cause })
    this.name = 'ApiError'
    this.status = fields.status
    this.code = fields.code
    this.param = fields.param ?? null
    this.shed = fields.shed
    this.retryAfterMs = fields.retryAfterMs ?? (fields.status === 503 ? RETRY_AFTER_MS : undefined)
  }

  static from(thrown: unknown): ApiError {
    if (thrown instanceof ApiError) return thrown
    if (thrown instanceof ShedError) return fromShedError(thrown)
    if (thrown instanceof KvasirError) return fromKvasirError(thrown)
    return fromFrameworkError(thrown) ?? fromKvasirError(KvasirError.from(thrown))
  }

  get type(): ApiErrorType {
    if (this.status === 401) return 'authentication_error'
    if (this.status === 429) return 'rate_limit_error'
    if (this.status === 503) return 'service_unavailable_error'
    return this.status < 500 ? 'invalid_request_error' : 'server_error'
  }

  get body(): ApiErrorBody {
    return { error: { message: this.message, type: this.type, param: this.param, code: this.code } }
  }
}

/** A request that the client has to change. */
export function badRequest(message: string, code: string, param?: string): ApiError {
  return new ApiError({ status: 400, message, code, param })
}

const STATUS: Readonly<Record<ErrorCode, number>> = {
  invalid_input: 400,
  unsupported: 400,
  not_found: 404,
  already_exists: 409,
  unavailable: 503,
  overloaded: 503,
  deadline: 503,
  unreachable: 503,
  lease_expired: 503,
  cancelled: 503,
  corrupt: 500,
  internal: 500,
}

/** As OpenAI's clients and gateways in front expect it where a client should slow down. */
function fromShedError(error: ShedError): ApiError {
  const { message, retryAfterMs, shed } = error
  return new ApiError({ status: 429, message, code: SHED_CODE[shed], retryAfterMs, shed, cause: error })
}

const SHED_CODE: Readonly<Record<ShedReason, string>> = {
  late: 'deadline_unmeetable',
  missed: 'deadline_unmeetable',
  priority: 'shed',
  share: 'shed',
}

function fromKvasirError(error: KvasirError): ApiError {
  const status = STATUS[error.code]
  return new ApiError({
    status,
    message:
      error.code === 'internal'
        ? 'Something went wrong inside Kvasir. Try again; the log of the coordinator says more, under this request id.'
        : error.message,
    code: error.code,
    param: error.param,
    retryAfterMs: error.retryAfterMs,
    cause: error,
  })
}

/** What fastify throws before a handler runs: body too large, no such content type, … */
function fromFrameworkError(thrown: unknown): ApiError | undefined {
  if (!(thrown instanceof Error) || !('statusCode' in thrown) || !('code' in thrown)) return undefined
  const status = Number(thrown.statusCode)
  if (!(status >= 400 && status < 500)) return undefined
  if (status === 413) {
    return new ApiError({
      status,
      message: 'The request body is larger than this server accepts. Send a shorter prompt.',
      code: 'request_too_large',
    })
  }
  if (status === 415) {
    return new ApiError({
      status,
      message: 'The body must be JSON. Send it with the header "Content-Type: application/json".',
      code: 'unsupported_media_type',
    })
  }
  if (thrown.code === 'FST_ERR_BAD_URL' || thrown.code === 'FST_ERR_MAX_PARAM_LENGTH') {
    const message = 'This path cannot be read, or is too long. See docs/api.md for what there is.'
    return new ApiError({ status, message, code: 'invalid_url' })
  }
  return new ApiError({ status, message: thrown.message, code: String(thrown.code).toLowerCase() })
}
