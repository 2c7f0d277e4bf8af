/** What a device did over a run: time, tokens, energy. It outlives the device's restarts. */

export interface TierSums {
  readonly lookups: number
  readonly hits: number
  readonly readBytes: number
  readonly inBytes: number
  readonly outBytes: number
}

const NOTHING: TierSums = { lookups: 0, hits: 0, readBytes: 0, inBytes: 0, outBytes: 0 }

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
  readonly #earlierTiers = new Map<string, TierSums>()

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

  /** A life ends: what it counted of its memories stays. */
  keep(counted: ReadonlyMap<string, TierSums>): void {
    for (const [name, sums] of counted) this.#earlierTiers.set(name, this.tierSums(name, sums))
  }

  /** Of one memory: earlier lives and `now` together. */
  tierSums(name: string, now = NOTHING): TierSums {
    const earlier = this.#earlierTiers.get(name) ?? NOTHING
    return {
      lookups: earlier.lookups + now.lookups,
      hits: earlier.hits + now.hits,
      readBytes: earlier.readBytes + now.readBytes,
      inBytes: earlier.inBytes + now.inBytes,
      outBytes: earlier.outBytes + now.outBytes,
    }
  }
}
