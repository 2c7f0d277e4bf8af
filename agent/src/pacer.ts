/**
 * Holds a sender to the rate of a modelled link, whose bytes may be those of a catalogued model.
 *
 * The link carries one message at a time in the order of the calls. Its schedule is kept
 * in absolute time, so that the coarse timers of the process delay single messages but
 * never lower the rate.
 */
import type { Clock } from '@kvasir/runtime/clock'
import { delay } from '@kvasir/runtime/deferred'

export class Pacer {
  private freeAtMs = 0

  /** `bytesPerSecond` 0: the link is not modelled and nothing is delayed. */
  constructor(
    private readonly bytesPerSecond: number,
    private readonly clock: Clock,
  ) {}

  /** Whether anything is delayed. */
  get holds(): boolean {
    return this.bytesPerSecond > 0
  }

  /** Resolves when the last of `bytes`, as the link counts them, has left, or at once when the signal aborts. */
  async transmit(bytes: number, signal: AbortSignal): Promise<void> {
    if (!this.holds) return
    const startMs = Math.max(this.freeAtMs, this.clock.nowMs())
    this.freeAtMs = startMs + (bytes / this.bytesPerSecond) * 1_000
    const waitMs = this.freeAtMs - this.clock.nowMs()
    if (waitMs > 0) await delay(waitMs, signal)
  }
}
