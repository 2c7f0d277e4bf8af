/** What a device did over a run: time, tokens, energy. It outlives the device's restarts. */

export class DeviceMeter {
  steps = 0
  prefillMs = 0
  decodeMs = 0
  prefillTokens = 0
  decodeTokens = 0
  /** Of steps alone. */
  stepJ = 0
  sentBytes = 0
  receivedBytes = 0
  /** What cores of earlier lives counted. */
  readonly earlierTiers = new Map<string, TierSums>()

  /** Steps ran: `ms` in all. `watts` undefined: not known. */
  ran(
    work: {
      readonly steps: number
      readonly ms: number
      readonly prefillTokens: number
      readonly decodes: number
    },
    watts: number | undefined,
  ): void {
    this.steps += work.steps
    if (work.prefillTokens > 0) this.prefillMs += work.ms
    else this.decodeMs += work.ms
    this.prefillTokens += work.prefillTokens
    this.decodeTokens += work.decodes * work.steps
    this.stepJ += ((watts ?? Number.NaN) * work.ms) / 1_000
  }
}

export interface TierSums {
  lookups: number
  hits: number
  readBytes: number
  inBytes: number
  outBytes: number
}
