/** What refusals and ends of sequences mean to the coordinator, as the real agent's errors and the real coordinator's reading of them do. */
import type { EndReason, Refusal } from '@kvasir/agent/core/events'
import type { Fault } from '@kvasir/coordinator/core/protocol'

const OF_REFUSAL: Readonly<Record<Refusal, Fault>> = {
  draining: 'refused',
  memory: 'refused',
  slots: 'refused',
  'queue-full': 'refused',
  'too-large': 'broken',
  superseded: 'lease-expired',
  duplicate: 'broken',
  'lease-ended': 'lease-expired',
  'lease-older': 'lease-expired',
  'lease-foreign': 'lease-expired',
  'lease-mismatch': 'broken',
  'lease-small': 'broken',
}

export function faultOfRefusal(refusal: Refusal): Fault {
  return OF_REFUSAL[refusal]
}

export function faultOfEnd(reason: EndReason): Fault {
  if (reason === 'superseded') return 'lease-expired'
  return reason === 'draining' ? 'refused' : 'broken'
}
