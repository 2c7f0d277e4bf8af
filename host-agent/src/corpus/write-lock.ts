/** One writer at a time; others wait in order, each with a deadline. */
import { deferred, withSignal } from '@kvasir/runtime/deferred'
import { withinOrUnavailable } from './patience.js'

export class WriteLock {
  private last: Promise<void> = Promise.resolve()

  /**
   * @param sentence of the UnavailableError for one whose turn does not come in time
   * @returns a function that lets the next one in
   */
  async take(ms: number, sentence: string, signal?: AbortSignal): Promise<() => void> {
    const before = this.last
    const turn = deferred<void>()
    const release = () => turn.resolve()
    // Who gives up passes the turn on only when it has come.
    this.last = before.then(() => turn.promise)
    try {
      await withinOrUnavailable(withSignal(before, signal), ms, sentence)
      return release
    } catch (error) {
      release()
      throw error
    }
  }
}
