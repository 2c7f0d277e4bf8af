/**
 * Virtual time: what happens when, earliest first; at equal times in the order in which it was said.
 *
 * Q1 Time never runs backwards: what is asked for the past happens now, and what is asked for no time at all is refused,
 *    since among moments that cannot be compared nothing has an order.
 */
import { InternalError } from '@kvasir/runtime/errors'
import FlatQueue from 'flatqueue'

type Happening = () => void

export class EventQueue {
  nowMs = 0
  /** Moments, each once; what happens then is in `#at`. */
  readonly #moments = new FlatQueue<number>()
  readonly #at = new Map<number, Happening | Happening[]>()

  /** @throws InternalError for NaN */
  at(atMs: number, does: Happening): void {
    const moment = Math.max(atMs, this.nowMs)
    if (Number.isNaN(moment)) throw new InternalError('Something was planned for a time that is no number.')
    const planned = this.#at.get(moment)
    if (planned === undefined) {
      this.#at.set(moment, does)
      this.#moments.push(moment, moment)
    } else if (typeof planned === 'function') this.#at.set(moment, [planned, does])
    else planned.push(does)
  }

  after(delayMs: number, does: Happening): void {
    this.at(this.nowMs + delayMs, does)
  }

  /** Lets all of the next moment happen, what it adds for the same moment included; false where nothing is planned. */
  runNext(untilMs = Number.POSITIVE_INFINITY): boolean {
    const moment = this.#moments.peekValue()
    if (moment === undefined || moment > untilMs) return false
    this.nowMs = moment
    const planned = this.#at.get(moment)
    if (typeof planned === 'function') {
      this.#moments.pop()
      this.#at.delete(moment)
      planned()
      return true
    }
    // Kept in place while it runs, so that what is added for now comes after it and in this pass.
    for (let index = 0; planned !== undefined && index < planned.length; index++) planned[index]?.()
    this.#moments.pop()
    this.#at.delete(moment)
    return true
  }
}
