/** The ways to pick by name. */
import { earliestFinish } from './earliest-finish.js'
import { house } from './house.js'
import type { PickPolicy } from './pick-policy.js'
import type { PickName } from './policy-names.js'
import { roundRobin } from './round-robin.js'
import { staticAffinity } from './static-affinity.js'

export const PICKS: Readonly<Record<PickName, PickPolicy>> = {
  house,
  'earliest-finish': earliestFinish,
  'static-affinity': staticAffinity,
  'round-robin': roundRobin,
}
