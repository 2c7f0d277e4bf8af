/** One writer at a time; others wait in order, each with a deadline. */
import { deferred, withDeadline, withSignal } from '@kvasir/runtime/deferred'

export class WriteLock {
  private last: Promise<void> = Promise.resolve()

  /**
   * @param what for the sentence of the DeadlineError, such as "waiting for another upload"
   * @returns a function that lets the next one in
   */
  async take(ms: number, what: string, signal?: AbortSignal): Promise<() => void> {
    const before = this.last
    const turn = deferred<void>()
    const release = () => turn.resolve()
    // Who gives up passes the turn on only when it has come.
    this.last = before.then(() => turn.promise)
    try {
      await withDeadline(withSignal(before, signal), ms, what)
      return release
    } catch (error) {
      release()
      throw error
    }
  }
}
