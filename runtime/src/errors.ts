/**
 * Errors by what the caller must do, not by where they came from.
 *
 * Every error that leaves a module of ours is one of these classes. Its message is one
 * clear sentence with the next step; it can be shown to a user as it stands. Not the
 * job of this file: the way over gRPC (rpc-errors.ts).
 */

export type ErrorCode =
  | 'invalid_input'
  | 'not_found'
  | 'already_exists'
  | 'unsupported'
  | 'unavailable'
  | 'overloaded'
  | 'deadline'
  | 'cancelled'
  | 'lease_expired'
  | 'corrupt'
  | 'unreachable'
  | 'internal'

export interface ErrorDetails {
  /** What the error is about: requestId, deviceId, leaseId, … */
  readonly ids?: Readonly<Record<string, string>>
  /** How long to wait before another try. */
  readonly retryAfterMs?: number
  /** The parameter, setting or field at fault. */
  readonly param?: string
  readonly cause?: unknown
}

export class KvasirError extends Error {
  readonly code: ErrorCode
  readonly ids: Readonly<Record<string, string>>
  readonly retryAfterMs?: number
  readonly param?: string

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.ids = details.ids ?? {}
    if (details.retryAfterMs !== undefined) this.retryAfterMs = details.retryAfterMs
    if (details.param !== undefined) this.param = details.param
    this.name = new.target.name
  }

  /** Whatever was thrown, as one of ours; anything unknown becomes an InternalError with it as cause. */
  static from(thrown: unknown): KvasirError {
    if (thrown instanceof KvasirError) return thrown
    if (thrown instanceof Error && thrown.name === 'AbortError') {
      // AbortSignal's own reason says more than "This operation was aborted".
      if (thrown.cause instanceof KvasirError) return thrown.cause
      return new CancelledError('The operation was cancelled.', { cause: thrown })
    }
    return new InternalError(`Unexpected error: ${messageOf(thrown)}`, { cause: thrown })
  }
}

/** The input is wrong: fix it; the same input fails again. */
export class InvalidInputError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('invalid_input', message, details)
  }
}

/** What was named does not exist. */
export class NotFoundError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('not_found', message, details)
  }
}

/** What was to be made is there already: use it, or choose another name. */
export class AlreadyExistsError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('already_exists', message, details)
  }
}

/** Well formed, but this build, device or model cannot do it. */
export class UnsupportedError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('unsupported', message, details)
  }
}

/** Nothing is wrong with the request: try again after `retryAfterMs`. */
export class UnavailableError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('unavailable', message, details)
  }
}

/** Refused before any work was done, since a bound was reached: try elsewhere or later. */
export class OverloadedError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('overloaded', message, details)
  }
}

/** The time allowed is over; the work may or may not have been done. */
export class DeadlineError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('deadline', message, details)
  }
}

/** The caller itself asked for it to stop. */
export class CancelledError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('cancelled', message, details)
  }
}

/** The lease is over or of an earlier life of the device: place the sequence anew. */
export class LeaseExpiredError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('lease_expired', message, details)
  }
}

/** Data did not match its checksum or its format: fetch it again, from elsewhere if need be. */
export class CorruptDataError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('corrupt', message, details)
  }
}

/** The peer is lost or cannot be reached: try another. */
export class UnreachableError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('unreachable', message, details)
  }
}

/** A fault of ours. Its cause belongs in the log. */
export class InternalError extends KvasirError {
  constructor(message: string, details?: ErrorDetails) {
    super('internal', message, details)
  }
}

const CLASSES: Readonly<Record<ErrorCode, new (message: string, details?: ErrorDetails) => KvasirError>> = {
  invalid_input: InvalidInputError,
  not_found: NotFoundError,
  already_exists: AlreadyExistsError,
  unsupported: UnsupportedError,
  unavailable: UnavailableError,
  overloaded: OverloadedError,
  deadline: DeadlineError,
  cancelled: CancelledError,
  lease_expired: LeaseExpiredError,
  corrupt: CorruptDataError,
  unreachable: UnreachableError,
  internal: InternalError,
}

export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(CLASSES, text)
}

/** The class that goes with a code. */
export function errorOf(code: ErrorCode, message: string, details?: ErrorDetails): KvasirError {
  return new CLASSES[code](message, details)
}

/** The message of anything thrown, never empty. */
export function messageOf(thrown: unknown): string {
  if (thrown instanceof Error) return thrown.message === '' ? thrown.name : thrown.message
  return String(thrown)
}
