import { Metadata, status } from '@grpc/grpc-js'
import { describe, expect, test } from 'vitest'
import {
  CancelledError,
  CorruptDataError,
  DeadlineError,
  type ErrorCode,
  errorOf,
  InternalError,
  KvasirError,
  messageOf,
  OverloadedError,
  UnreachableError,
} from './errors.js'
import { fromServiceError, toServiceError } from './rpc-errors.js'

const codes: ErrorCode[] = [
  'invalid_input',
  'not_found',
  'already_exists',
  'unsupported',
  'unavailable',
  'overloaded',
  'deadline',
  'cancelled',
  'lease_expired',
  'corrupt',
  'unreachable',
  'internal',
]

function transportError(code: status, details: string): Error {
  return Object.assign(new Error(details), { code, details, metadata: new Metadata() })
}

describe('errors', () => {
  test('of any kind become one of ours, with the cause kept', () => {
    const ours = new OverloadedError('The queue is full; try again.', { ids: { requestId: 'r' } })
    expect(KvasirError.from(ours)).toBe(ours)
    const bug = new TypeError('x is undefined')
    expect(KvasirError.from(bug)).toBeInstanceOf(InternalError)
    expect(KvasirError.from(bug).cause).toBe(bug)
    expect(KvasirError.from('text').message).toBe('Unexpected error: text')
    expect(KvasirError.from(AbortSignal.abort().reason)).toBeInstanceOf(CancelledError)
    expect(messageOf(new Error(''))).toBe('Error')
    expect(ours.name).toBe('OverloadedError')
  })

  test.each(codes)('%s survives the way over gRPC', (code) => {
    const error = errorOf(code, 'Something; do that.', { ids: { deviceId: 'fpga-1' }, retryAfterMs: 1_000 })
    const arrived = fromServiceError(toServiceError(error), 'fpga-1')
    expect(arrived.constructor).toBe(error.constructor)
    expect(arrived).toMatchObject({ code, message: 'Something; do that.', ids: { deviceId: 'fpga-1' } })
    expect(arrived.retryAfterMs).toBe(1_000)
  })

  test.each([
    [status.UNAVAILABLE, 'Connection dropped', UnreachableError],
    [status.UNAVAILABLE, '', UnreachableError],
    [status.CANCELLED, 'Call cancelled', UnreachableError],
    [status.CANCELLED, 'Cancelled on client', CancelledError],
    [status.INTERNAL, 'Received RST_STREAM with code 2 (Internal server error)', UnreachableError],
    [status.INTERNAL, 'Error deserializing request', CorruptDataError],
    [status.INTERNAL, 'Response message parsing error: premature EOF', CorruptDataError],
    [status.DEADLINE_EXCEEDED, 'Deadline exceeded', DeadlineError],
    [status.RESOURCE_EXHAUSTED, 'Received message larger than max (9 vs 8)', InternalError],
    [status.RESOURCE_EXHAUSTED, 'no slot', OverloadedError],
    [status.UNKNOWN, 'what', InternalError],
  ])('status %s "%s" of the transport', (code, details, expected) => {
    const error = fromServiceError(transportError(code, details), '10.0.0.7:4000')
    expect(error).toBeInstanceOf(expected)
    expect(error.message).toMatch(/^[^\n]*10\.0\.0\.7:4000[^\n]*\.$/)
    expect(error.ids).toEqual({ peer: '10.0.0.7:4000' })
  })

  test('long messages are cut, and damaged metadata is no error of its own', () => {
    expect(toServiceError(new InternalError('x'.repeat(9_000))).details.length).toBe(1_000)
    const metadata = new Metadata()
    metadata.set('kvasir-error-code', 'overloaded')
    metadata.set('kvasir-error-ids', '%E0%A4%A')
    metadata.set('kvasir-retry-after-ms', 'soon')
    const error = Object.assign(new Error('d'), { code: 8, details: 'full', metadata })
    expect(fromServiceError(error, 'peer')).toMatchObject({ code: 'overloaded', ids: {}, message: 'full' })
    expect(fromServiceError(error, 'peer').retryAfterMs).toBeUndefined()
  })
})
