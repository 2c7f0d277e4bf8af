/**
 * What the core's refusals and endings mean to a caller: one sentence each, with the
 * next step, under the class that tells the coordinator what to do.
 */
import {
  CancelledError,
  InternalError,
  InvalidInputError,
  type KvasirError,
  LeaseExpiredError,
  OverloadedError,
  UnavailableError,
} from '@kvasir/runtime/errors'
import type { EndReason, Refusal } from './core/events.js'

/** Who refuses. `unloads`: the model concerned, where it is being unloaded. */
export interface Refuser {
  readonly deviceId: string
  readonly unloads?: string
}

/** A device that drains is gone for good soon: others are asked first, and it is asked again only as a last resort. */
const DRAINING_RETRY_MS = 5_000
const FULL_RETRY_MS = 250

export function refusalError(reason: Refusal, { deviceId, unloads }: Refuser): KvasirError {
  const ids = { deviceId, reason }
  switch (reason) {
    case 'draining':
      return new UnavailableError(
        `Device ${deviceId} ${unloads === undefined ? 'is draining' : `is unloading ${unloads}`}; place the request on another device.`,
        { ids, retryAfterMs: DRAINING_RETRY_MS },
      )
    case 'memory':
      return full(`Device ${deviceId} has too little free KV memory; try another device or try again later.`)
    case 'slots':
      return full(`Every decode slot of device ${deviceId} is taken; try another device or try again later.`)
    case 'queue-full':
      return full(`The prefill queue of device ${deviceId} is full; try another device or try again later.`)
    case 'too-large':
      return new InvalidInputError(
        `The sequence does not fit into the KV memory of device ${deviceId} even when it is empty; choose a larger device.`,
        { ids, param: 'tokens' },
      )
    case 'superseded':
      return new LeaseExpiredError(
        `Device ${deviceId} already serves a newer placement of this request; drop this one.`,
        { ids },
      )
    case 'duplicate':
      return new InvalidInputError(`This placement of the request already runs on device ${deviceId}.`, {
        ids,
      })
    case 'lease-ended':
      return new LeaseExpiredError(`The lease on device ${deviceId} has ended; place the request anew.`, {
        ids,
      })
    case 'lease-older':
      return new LeaseExpiredError(
        `The lease is of an earlier life of device ${deviceId}, which has restarted; place the request anew.`,
        { ids },
      )
    case 'lease-foreign':
      return new LeaseExpiredError(`Device ${deviceId} never issued this lease; place the request anew.`, {
        ids,
      })
    case 'lease-mismatch':
      return new InvalidInputError(
        `The lease on device ${deviceId} belongs to another request, epoch or prompt; use the one that Reserve returned.`,
        { ids, param: 'lease' },
      )
    case 'lease-small':
      return new InvalidInputError(
        `The lease on device ${deviceId} has room for fewer blocks than are pushed; reserve or extend it for all of them.`,
        { ids, param: 'lease' },
      )
  }

  function full(message: string): KvasirError {
    return new OverloadedError(message, { ids, retryAfterMs: FULL_RETRY_MS })
  }
}

/** For endings that are failures to the caller; `stop`, `length`, `preempted` and `sent` are answers. */
export function endError(reason: EndReason, { deviceId, unloads }: Refuser): KvasirError {
  const ids = { deviceId, reason }
  switch (reason) {
    case 'superseded':
      return new LeaseExpiredError(
        `A newer placement of this request took the place of this one on device ${deviceId}.`,
        { ids },
      )
    case 'released':
      // Whoever asked for the sequence wants it no more, and its cancellation may come after the release.
      return new CancelledError(`The lease on device ${deviceId} was released while it was in use.`, { ids })
    case 'draining':
      return new UnavailableError(
        `Device ${deviceId} has ${unloads === undefined ? 'drained' : `unloaded ${unloads}`}; place the request on another device.`,
        { ids, retryAfterMs: DRAINING_RETRY_MS },
      )
    case 'cancelled':
      return new CancelledError(`The sequence on device ${deviceId} was cancelled.`, { ids })
    default:
      return new InternalError(`Device ${deviceId} could not run the sequence; place the request anew.`, {
        ids,
      })
  }
}
