/**
 * The policies that studies compare, by name. What serves by default is `fcfs` and `house`.
 *
 * Karami et al. (RTGen) compare five scheduling policies whose names are not published; `fcfs`, `edf`, `least-slack`,
 * `earliest-finish` and `static-affinity` are ours, inferred from what such a comparison needs.
 */
import type { PickPolicy } from './policies/pick-policy.js'

/** Which of one tenant's waiting requests of one priority is placed first. */
export const ORDER_NAMES = ['fcfs', 'edf', 'least-slack', 'value'] as const
export type OrderName = (typeof ORDER_NAMES)[number]

/** Which pair of devices a request gets. */
export const PICK_NAMES = ['house', 'earliest-finish', 'static-affinity', 'round-robin'] as const
export type PickName = (typeof PICK_NAMES)[number]

export interface PolicySetting {
  /** Default fcfs. */
  readonly order?: OrderName
  /** By name, or one of a study's own. Default house. */
  readonly pick?: PickName | PickPolicy
  /** False: a device that prefers prefill never decodes while one that prefers decode is there. Default true. */
  readonly decodeAssist?: boolean
}
