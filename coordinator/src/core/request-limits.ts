/** What a coordinator is set to. */
import type { AdmissionSetting } from './admission-setting.js'
import type { PlacementLimits } from './device-filter.js'
import type { PolicySetting } from './placement-policy.js'

export interface RequestLimits extends PlacementLimits {
  /**
   * Requests that may wait, those that lost their device among them, when a new one comes; else it or one that is worth
   * less is refused. No more than these and the cluster's decode slots live at a time (WaitQueue, Q2).
   */
  readonly queuedMax: number
  /** Longest wait for a placement, the first or a later one. */
  readonly placementDeadlineMs: number
  /** Longest life of a request. */
  readonly requestDeadlineMs: number
  /** What requests that ask for nothing get: `auto` may be sparse in long contexts. Default auto. */
  readonly attentionDefault?: 'auto' | 'dense'
  readonly admission?: AdmissionSetting
  readonly policy?: PolicySetting
}
