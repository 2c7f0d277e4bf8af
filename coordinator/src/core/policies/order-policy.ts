/** Orders the waiting requests of one tenant and priority. */
import type { OrderName } from './policy-names.js'

/** What is known of a request when it comes. */
export interface OrderedRequest {
  /** Counts submissions. */
  readonly arrival: number
  /** When its first token is due; where it has no deadline, when its wait for a place ends. */
  readonly dueMs: number
  /** Predicted time of its prefill on an idle device, milliseconds; asked for only where it counts. */
  readonly prefillMs: () => number
  /** Prompt and expected answer. */
  readonly workTokens: number
}

export interface OrderPolicy {
  readonly name: OrderName
  /** The lowest comes first; of equal ones the first that came. Fixed while the request lives. */
  key(request: OrderedRequest): number
}
