/**
 * What a coordinator is told of admission: which requests are taken, and which of those that wait come first.
 */

/** Higher is more urgent. */
export const PRIORITY_MIN = -10
export const PRIORITY_MAX = 10

export interface AdmissionSetting {
  /**
   * Whether a request is refused early that is predicted to miss the deadline of its first token, and whether a
   * device's queue of prompts is kept short, so that what comes later and is worth more need not wait behind it.
   * Default true.
   */
  readonly isOn?: boolean
  /** Time to the first token of requests that ask for none, milliseconds; absent: they may take as long as they do. */
  readonly ttftDeadlineMs?: number
  /** Shares of tenants that contend, by name; of one that is not named 1. */
  readonly tenantWeights?: Readonly<Record<string, number>>
}
