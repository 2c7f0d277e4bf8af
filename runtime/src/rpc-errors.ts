/**
 * Errors on their way over gRPC: a KvasirError becomes a status with its code, ids and
 * pause in the metadata, and comes out as the same class on the other side.
 *
 * A status without our code was made by the transport or by a stranger. What it means
 * for the caller is decided here: a connection that failed or was cut is an
 * UnreachableError, whatever code the transport gave it.
 */
import { Metadata, type ServiceError, status } from '@grpc/grpc-js'
import {
  CancelledError,
  CorruptDataError,
  DeadlineError,
  type ErrorCode,
  type ErrorDetails,
  errorOf,
  InternalError,
  InvalidInputError,
  isErrorCode,
  KvasirError,
  NotFoundError,
  OverloadedError,
  UnreachableError,
  UnsupportedError,
} from './errors.js'

const CODE_KEY = 'kvasir-error-code'
const IDS_KEY = 'kvasir-error-ids'
const RETRY_KEY = 'kvasir-retry-after-ms'
const PARAM_KEY = 'kvasir-error-param'

/** Longest message that is sent: trailers share HTTP/2's limit on headers. */
const MESSAGE_CHARACTERS_MAX = 1_000

const STATUS: Readonly<Record<ErrorCode, status>> = {
  invalid_input: status.INVALID_ARGUMENT,
  not_found: status.NOT_FOUND,
  already_exists: status.ALREADY_EXISTS,
  unsupported: status.UNIMPLEMENTED,
  unavailable: status.UNAVAILABLE,
  overloaded: status.RESOURCE_EXHAUSTED,
  deadline: status.DEADLINE_EXCEEDED,
  cancelled: status.CANCELLED,
  lease_expired: status.ABORTED,
  corrupt: status.DATA_LOSS,
  unreachable: status.UNAVAILABLE,
  internal: status.INTERNAL,
}

/** What a client of ours sees as details when it cancelled the call itself. */
const CANCELLED_BY_US = 'Cancelled on client'

/** The status to send for anything thrown. */
export function toServiceError(thrown: unknown): ServiceError {
  if (isServiceError(thrown)) return thrown
  const error = KvasirError.from(thrown)
  const metadata = new Metadata()
  metadata.set(CODE_KEY, error.code)
  // Header values are ASCII: ids and parameter names go percent-encoded.
  metadata.set(IDS_KEY, encodeURIComponent(JSON.stringify(error.ids)))
  if (error.retryAfterMs !== undefined) metadata.set(RETRY_KEY, String(Math.ceil(error.retryAfterMs)))
  if (error.param !== undefined) metadata.set(PARAM_KEY, encodeURIComponent(error.param))
  const details = toWellFormed(error.message.slice(0, MESSAGE_CHARACTERS_MAX))
  return Object.assign(new Error(details), { code: STATUS[error.code], details, metadata })
}

/** What a failed call means for the caller. `peer` names the other side, such as its address. */
export function fromServiceError(thrown: unknown, peer: string): KvasirError {
  if (!isServiceError(thrown)) return KvasirError.from(thrown)
  const told = toldError(thrown)
  if (told !== undefined) return told

  const ids = { peer }
  const details = thrown.details
  const cause = thrown
  switch (thrown.code) {
    case status.DEADLINE_EXCEEDED:
      return new DeadlineError(`${peer} did not answer within the deadline.`, { ids, cause })
    case status.CANCELLED:
      if (details === CANCELLED_BY_US)
        return new CancelledError(`The call to ${peer} was cancelled.`, { ids, cause })
      return new UnreachableError(`${peer} ended the call; try another.`, { ids, cause })
    case status.UNAVAILABLE:
      return new UnreachableError(`${peer} cannot be reached: ${sentence(details)}`, { ids, cause })
    case status.INVALID_ARGUMENT:
      return new InvalidInputError(`${peer} refused the call: ${sentence(details)}`, { ids, cause })
    case status.NOT_FOUND:
      return new NotFoundError(`${peer} does not know what was asked for: ${sentence(details)}`, {
        ids,
        cause,
      })
    case status.UNIMPLEMENTED:
    case status.FAILED_PRECONDITION:
      return new UnsupportedError(`${peer} cannot serve the call: ${sentence(details)}`, { ids, cause })
    case status.RESOURCE_EXHAUSTED:
      // Of the transport's own making this is a message over the size limit: a fault, not load.
      if (/larger than max/i.test(details))
        return new InternalError(`A message to or from ${peer} is too large: ${sentence(details)}`, {
          ids,
          cause,
        })
      return new OverloadedError(`${peer} has no room: ${sentence(details)}`, { ids, cause })
    case status.DATA_LOSS:
      return new CorruptDataError(`${peer} sent damaged data: ${sentence(details)}`, { ids, cause })
    default:
      if (/RST_STREAM|GOAWAY|socket|connection/i.test(details))
        return new UnreachableError(`The connection to ${peer} was lost: ${sentence(details)}`, {
          ids,
          cause,
        })
      if (/deserializ|serializ|parsing/i.test(details))
        return new CorruptDataError(`A message to or from ${peer} is malformed: ${sentence(details)}`, {
          ids,
          cause,
        })
      return new InternalError(`${peer} failed: ${sentence(details)}`, { ids, cause })
  }
}

/** The error as the peer told it, where it is one of ours. */
function toldError(error: ServiceError): KvasirError | undefined {
  const code = text(error.metadata, CODE_KEY)
  if (code === undefined || !isErrorCode(code)) return undefined
  const retry = Number(text(error.metadata, RETRY_KEY))
  const param = text(error.metadata, PARAM_KEY)
  const details: ErrorDetails = {
    ids: parseIds(text(error.metadata, IDS_KEY)),
    cause: error,
    ...(Number.isFinite(retry) && retry >= 0 ? { retryAfterMs: retry } : {}),
    ...(param === undefined ? {} : { param: decode(param) }),
  }
  return errorOf(code, error.details, details)
}

function parseIds(encoded: string | undefined): Record<string, string> {
  if (encoded === undefined) return {}
  try {
    const parsed: unknown = JSON.parse(decode(encoded))
    if (typeof parsed !== 'object' || parsed === null) return {}
    return Object.fromEntries(Object.entries(parsed).map(([key, value]) => [key, String(value)]))
  } catch {
    return {}
  }
}

function decode(encoded: string): string {
  try {
    return decodeURIComponent(encoded)
  } catch {
    return encoded
  }
}

function text(metadata: Metadata | undefined, key: string): string | undefined {
  const value = metadata?.get(key)[0]
  return typeof value === 'string' ? value : undefined
}

function isServiceError(thrown: unknown): thrown is ServiceError {
  return (
    thrown instanceof Error &&
    'code' in thrown &&
    typeof thrown.code === 'number' &&
    'details' in thrown &&
    typeof thrown.details === 'string'
  )
}

/** A lone surrogate would make the transport's percent-encoding throw. */
function toWellFormed(message: string): string {
  return Buffer.from(message, 'utf8').toString('utf8')
}

function sentence(details: string): string {
  const trimmed = details.trim() === '' ? 'no reason was given' : details.trim()
  return /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`
}
