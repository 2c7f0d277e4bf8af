/** The mistakes that the study must find, each by itself. */
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
