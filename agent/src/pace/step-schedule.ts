/**
 * When the steps of a paced device begin: those of all its models take turns, as on the device.
 *
 * Invariants:
 * W1 No two steps overlap: one begins when the one issued before it has ended, or later.
 * W2 A step that is issued as the answer to the end of the last one begins when that one ended by the catalogue, not when
 *    a timer of this process noticed. So the coarseness of timers delays single tokens and never lowers the rate.
 */
import type { Clock } from '@kvasir/runtime/clock'
import { type Deferred, deferred } from '@kvasir/runtime/deferred'

/** One step's place in the order. */
export interface Turn {
  /** Settles when the step's time begins to run. */
  readonly startMs: Promise<number>
  /** The step ended then; its result is handed out in this turn of the event loop. */
  end(atMs: number): void
}

export class StepSchedule {
  /** End of the step that was issued last. */
  private last: Deferred<number> = settledAt(Number.NEGATIVE_INFINITY)
  /** End of a step whose result is being handed out. */
  private handedOutMs: number | undefined

  constructor(private readonly clock: Clock) {}

  issue(): Turn {
    const issuedMs = this.handedOutMs ?? this.clock.nowMs()
    const before = this.last
    const own = deferred<number>()
    this.last = own
    return {
      startMs: before.promise.then((endMs) => Math.max(endMs, issuedMs)),
      end: (atMs) => {
        own.resolve(atMs)
        this.handedOutMs = atMs
        setImmediate(() => {
          if (this.handedOutMs === atMs) this.handedOutMs = undefined
        })
      },
    }
  }
}

function settledAt(ms: number): Deferred<number> {
  const settled = deferred<number>()
  settled.resolve(ms)
  return settled
}
