/** What a study asks of a virtual cluster, and what became of it. Times are milliseconds of virtual time from 0. */

export interface VirtualRequest {
  readonly requestId: string
  readonly arrivalMs: number
  readonly promptTokens: number
  /** Tokens after which the model stops; at least 1. */
  readonly outputTokens: number
  /** Asked for at most; undefined: exactly `outputTokens`. */
  readonly maxTokens?: number
  /**
   * Names of the prompt's full blocks, in order: equal numbers mean equal content and equal beginnings. Whole numbers
   * below 2^52; empty where nothing may be reused.
   */
  readonly blocks: readonly number[]
  readonly tenant?: string
  /** Higher is more urgent; undefined: 0. */
  readonly priority?: number
  /** What admission judges by: time to the first token that the client still has a use for; undefined: the cluster's default. */
  readonly ttftDeadlineMs?: number
  /** Its client leaves after so long; undefined: stays. */
  readonly leavesAfterMs?: number
}

export interface RequestOutcome {
  readonly request: VirtualRequest
  readonly end: 'finished' | 'failed' | 'cancelled' | 'unfinished'
  /** Why it failed, such as overloaded; '' else. */
  readonly code: string
  /** Absolute; NaN where it never came. */
  readonly firstTokenMs: number
  readonly endMs: number
  readonly tokens: number
  /** Of the last placement; '' where there was none. */
  readonly prefillDevice: string
  readonly decodeDevice: string
  /** Placements; more than 1 where it had to move. */
  readonly placements: number
  /** Prompt tokens that were not computed, because the device had them or fetched them. */
  readonly cachedTokens: number
  readonly fetchedTokens: number
  /** Predicted by the core at its last placement, of the whole time to the first token. */
  readonly predictedTtftMs: number
  readonly predictedTpotMs: number
  /** From prefill's start on the device to its end, and until all KV was there after that. */
  readonly prefillMs: number
  readonly exposedMs: number
  readonly kvBytes: number
}

/** Over a run, of one device. */
export interface DeviceUsage {
  readonly deviceId: string
  readonly device: string
  readonly steps: number
  readonly busyMs: number
  /** Of it: steps that prefilled, and that only decoded. */
  readonly prefillMs: number
  readonly decodeMs: number
  readonly prefillTokens: number
  readonly decodeTokens: number
  /** Joules, idle time included; NaN where the catalogue does not know its power. */
  readonly energyJ: number
  readonly dollars: number
  /** Full prompt blocks that were looked for and found, by tier. */
  readonly tiers: readonly {
    readonly name: string
    readonly lookups: number
    readonly hits: number
    readonly readBytes: number
    readonly inBytes: number
    readonly outBytes: number
  }[]
  /** Bytes that its link carried from it and to it. */
  readonly sentBytes: number
  readonly receivedBytes: number
}

export interface RunSummary {
  readonly virtualMs: number
  readonly devices: readonly DeviceUsage[]
  /**
   * Events of the run: what either core took, messages, changes of links' shares. Steps that ran as one count each for itself, with the
   * tokens that each gave, as they would step by step.
   */
  readonly events: number
  /** Of those, handled one by one. */
  readonly eventsHandled: number
  /** Device steps, each for itself. */
  readonly steps: number
}
