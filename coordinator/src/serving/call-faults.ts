/**
 * What a failed call to a device means to the core: which device is at fault, and what
 * follows from it.
 */
import type { KvasirError } from '@kvasir/runtime/errors'
import type { CallName, Fault } from '../core/protocol.js'

export interface CallFault {
  readonly fault: Fault
  readonly deviceId: string
}

/** `called` is the device that was asked; `others` are those it may blame. */
export function faultOf(
  error: KvasirError,
  call: CallName,
  called: string,
  others: readonly string[],
): CallFault {
  const named = error.ids.deviceId
  const deviceId = named !== undefined && others.includes(named) ? named : called
  return { fault: faultKind(error, call), deviceId }
}

function faultKind(error: KvasirError, call: CallName): Fault {
  switch (error.code) {
    case 'unreachable':
      return 'unreachable'
    case 'overloaded':
    case 'unavailable':
      return 'refused'
    case 'lease_expired':
      return 'lease-expired'
    case 'deadline':
      // Reserve takes milliseconds; a stream's deadline is the request's, which the core keeps.
      return call === 'reserve' ? 'unreachable' : 'broken'
    case 'invalid_input':
      // A device that gives a reason of its own, such as too small a memory, speaks for itself alone.
      return error.ids.reason === undefined ? 'rejected' : 'broken'
    default:
      return 'broken'
  }
}
