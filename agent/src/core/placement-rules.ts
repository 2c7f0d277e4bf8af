/**
 * Which placement of a request may use the device.
 *
 * A request is placed anew when a device is lost, with the next epoch. Messages of an
 * older placement can still be on their way, so the newest one that is here wins,
 * whichever comes first.
 */
import type { DeviceState, Role } from './device-state.js'
import type { Refusal } from './events.js'
import type { LeaseReference } from './lease-table.js'

export interface Placement {
  readonly role: Role
  readonly requestId: string
  readonly epoch: number
  /** Tokens that it needs room for. */
  readonly tokens: number
}

/** Ends what older placements of the request hold; says why this one is refused, if it is. */
export function placementRefusal(state: DeviceState, placement: Placement): Refusal | undefined {
  const { role, requestId, epoch, tokens } = placement
  if (state.draining) return 'draining'
  if (!state.memory.couldEverFit(tokens)) return 'too-large'
  const sequences = state.sequencesOf.of(requestId)
  const leases = state.leasesOf.of(requestId)
  if (sequences.length === 0 && leases.length === 0) return undefined
  if ([...sequences, ...leases].some((other) => other.epoch > epoch)) return 'superseded'
  if (sequences.some((other) => other.epoch === epoch && other.role === role)) return 'duplicate'
  for (const other of sequences) if (other.epoch < epoch) state.endSequence(other, 'superseded')
  for (const other of leases) {
    // A repeated Reserve replaces its first answer, which may have been lost.
    const repeated = other.epoch === epoch && other.role === role
    if (other.epoch < epoch || repeated) state.endLease(other.counter, 'superseded')
  }
  return undefined
}

/** Why a lease may not be used; undefined where it may. */
export function leaseRefusal(state: DeviceState, lease: LeaseReference): Refusal | undefined {
  const verdict = state.leases.verdict(lease)
  return verdict === 'alive' ? undefined : `lease-${verdict}`
}

/** Whether the first of `hashes` are `start`, all of it. */
export function beginsWith(hashes: readonly string[], start: readonly string[]): boolean {
  return start.every((hash, index) => hashes[index] === hash)
}
