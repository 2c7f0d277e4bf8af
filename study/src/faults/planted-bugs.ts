/** The mistakes that the study must find, each by itself. */
import { InvalidInputError } from '@kvasir/runtime/errors'
import {
  directoryTrusted,
  forgottenRelease,
  freedUnderTransfer,
  olderLeaseAccepted,
  skippedLeaseCheck,
} from './planted-agent-bugs.js'
import type { PlantedBug } from './planted-bug.js'
import {
  deadlineNotArmed,
  doubledEmit,
  epochNotFenced,
  lostDeviceChosen,
  queueUnbounded,
} from './planted-coordinator-bugs.js'

export const PLANTED_BUGS: readonly PlantedBug[] = [
  skippedLeaseCheck,
  olderLeaseAccepted,
  forgottenRelease,
  freedUnderTransfer,
  directoryTrusted,
  doubledEmit,
  lostDeviceChosen,
  epochNotFenced,
  deadlineNotArmed,
  queueUnbounded,
]

/** Throws InvalidInputError where there is none of that name. */
export function plantedBug(name: string): PlantedBug {
  const bug = PLANTED_BUGS.find((one) => one.name === name)
  if (bug) return bug
  const names = PLANTED_BUGS.map((one) => one.name).join(', ')
  throw new InvalidInputError(`There is no planted mistake ${name}; there are ${names}.`, { param: 'plant' })
}
