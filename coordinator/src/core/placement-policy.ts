/**
 * The policies that studies compare, by name. What serves by default is `fcfs` and `house`.
 *
 * Karami et al. (RTGen) compare five scheduling policies whose names are not published; `fcfs`, `edf`, `least-slack`,
 * `earliest-finish` and `static-affinity` are ours, inferred from what such a comparison needs.
 */
import type { PickPolicy } from './policies/pick-policy.js'
import type { OrderName, PickName } from './policies/policy-names.js'

export interface PolicySetting {
  /** Default fcfs. */
  readonly order?: OrderName
  /** By name, or one of a study's own. Default house. */
  readonly pick?: PickName | PickPolicy
  /** False: a device that prefers prefill never decodes while one that prefers decode is there. Default true. */
  readonly decodeAssist?: boolean
}
