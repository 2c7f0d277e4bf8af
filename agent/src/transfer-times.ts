/**
 * When the chunks of a transfer were handed over and acknowledged, on the sender's clock.
 *
 * Busy time is the time in which at least one chunk was under way, overlaps counted once.
 * Exposed time is what prefill did not hide: from its end to the last acknowledgement.
 */
import type { Clock } from '@kvasir/runtime/clock'
import { TOKEN_TIMES_MAX } from '@kvasir/runtime/telemetry-names'

export class TransferTimes {
  bytes = 0
  chunks = 0
  private readonly sentAtMs: number[] = []
  private readonly ackedAtMs: number[] = []
  private busyMs = 0
  private busySinceMs = 0
  private underWay = 0
  private prefillEndMs: number | undefined
  private lastAckMs: number | undefined

  constructor(private readonly clock: Clock) {}

  sent(bytes: number): void {
    const now = this.clock.nowMs()
    if (this.underWay === 0) this.busySinceMs = now
    this.underWay += 1
    this.bytes += bytes
    this.chunks += 1
    if (this.sentAtMs.length < TOKEN_TIMES_MAX) this.sentAtMs.push(now)
  }

  /** The oldest chunk under way was acknowledged. */
  acknowledged(): void {
    const now = this.clock.nowMs()
    this.underWay -= 1
    this.lastAckMs = now
    if (this.underWay === 0) this.busyMs += now - this.busySinceMs
    if (this.ackedAtMs.length < TOKEN_TIMES_MAX) this.ackedAtMs.push(now)
  }

  prefillEnded(): void {
    this.prefillEndMs = this.clock.nowMs()
  }

  get busyUs(): number {
    return Math.round(this.busyMs * 1_000)
  }

  get exposedUs(): number {
    if (this.lastAckMs === undefined || this.prefillEndMs === undefined) return 0
    return Math.round(Math.max(0, this.lastAckMs - this.prefillEndMs) * 1_000)
  }

  /** Hand-overs and acknowledgements of the first chunks, microseconds since `startMs`. */
  since(startMs: number): { readonly sentUs: number[]; readonly ackedUs: number[] } {
    const relative = (times: readonly number[]) => times.map((atMs) => Math.round((atMs - startMs) * 1_000))
    return { sentUs: relative(this.sentAtMs), ackedUs: relative(this.ackedAtMs) }
  }
}
