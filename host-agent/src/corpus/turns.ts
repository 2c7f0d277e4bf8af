/**
 * Long work on the event loop, in pieces: others get their turn whenever this work has run for some time.
 */

/** KV transfers and health checks run on the same event loop; none of them should wait longer. */
const TURN_MS = 8

export class Turns {
  private sinceMs = performance.now()

  /** Lets others run where it is their turn; else resolves at once. */
  async rest(): Promise<void> {
    if (performance.now() - this.sinceMs < TURN_MS) return
    await new Promise((resolve) => setImmediate(resolve))
    this.sinceMs = performance.now()
  }

  /** Runs the steps to their end, with rests at their pauses. Stops with the signal's reason when it aborts. */
  async run<T>(steps: Generator<void, T>, signal?: AbortSignal): Promise<T> {
    for (;;) {
      const step = steps.next()
      if (step.done === true) return step.value
      await this.rest()
      signal?.throwIfAborted()
    }
  }
}
