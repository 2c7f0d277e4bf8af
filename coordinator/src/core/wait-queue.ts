/**
 * Requests that wait for a placement and hold nothing, in the order in which they are placed.
 *
 * Q1. Requests that had begun and lost their place come before those that have not begun, in the order of arrival.
 *     Those that have not begun come by priority, then by their tenants' shares (wait-line.ts), then in the order
 *     that the policy gives; by default that of arrival.
 * Q2. A new request is let in while no more than `waitingMax` wait with it, those that came back among them, once the
 *     one that is worth least has given way. One that comes back is always taken, however many wait: it was accepted,
 *     and is not refused because its device died. So requests that live are bounded: each waits or holds a decode
 *     slot, and the new ones alone make them more, so that there are never more than `waitingMax` and the decode
 *     slots that were there at once.
 * Q3. What one event costs does not grow with those that wait, but for a logarithm: of every line (requests for one
 *     model and profile) the first is offered, and the next one only where that was taken. One that nothing can be
 *     concluded from for the others stands aside; of those a few are offered at a time, all of them in turn.
 */
import { type Waiting, WaitLine, type WeightOf } from './wait-line.js'

/** What became of a request that was offered. */
export type Offer =
  /** It has its place. */
  | 'taken'
  /** It has ended. */
  | 'ended'
  /** It waits, and so do those behind it. */
  | 'blocked'
  /** It waits, which says nothing of those behind it. */
  | 'aside'

/** Requests that stand aside and are offered at one event. */
const ASIDE_OFFERED_MAX = 16

export class WaitQueue<R extends Waiting> {
  readonly #waitingMax: number
  readonly #weightOf: WeightOf
  readonly #lines = new Map<string, WaitLine<R>>()
  /** In order. */
  readonly #aside: R[] = []
  #asideNext = 0
  #asideNew = 0
  #length = 0

  constructor(waitingMax: number, weightOf: WeightOf = () => 1) {
    this.#waitingMax = waitingMax
    this.#weightOf = weightOf
  }

  get length(): number {
    return this.#length
  }

  /** Whether one that has just come is one too many. */
  get isOverfull(): boolean {
    return this.#length > this.#waitingMax
  }

  add(request: R): void {
    this.#length += 1
    this.#lineOf(request).add(request)
  }

  /** It leaves without having been placed; of one that is not here nothing happens. */
  remove(request: R): void {
    const isHere = this.#lineOf(request).remove(request) || this.#removeAside(request)
    if (isHere) this.#length -= 1
  }

  isAnyoneWaiting(line: string): boolean {
    return (this.#lines.get(line)?.length ?? 0) > 0
  }

  /** Work that comes before one like this, in tokens; see WaitLine.tokensAhead. */
  tokensAhead(like: Waiting): number {
    return this.#lines.get(like.line)?.tokensAhead(like) ?? 0
  }

  /** Corrects what the tenant of a request was charged when it was placed: it was given so much work. */
  settle(request: R, tokens: number): void {
    this.#lines.get(request.line)?.charge(request.tenant, tokens - request.workTokens)
  }

  /** Offers those that wait in order; what is taken or has ended leaves. */
  sweep(nowMs: number, offer: (request: R) => Offer): void {
    const open = [...this.#lines.values()].filter((line) => line.length > 0)
    const aside = this.#asideWindow()
    for (;;) {
      let best: R | undefined
      let from: WaitLine<R> | undefined
      for (const line of open) {
        const first = line.first(nowMs)
        if (first && (!best || comesBefore(first, best))) {
          best = first
          from = line
        }
      }
      const standing = aside[0]
      if (standing && (!best || comesBefore(standing, best))) {
        aside.shift()
        const outcome = offer(standing)
        if (outcome === 'taken') this.#takeAside(standing)
        continue
      }
      if (!best || !from) return
      const outcome = offer(best)
      if (outcome === 'taken') {
        from.take(best)
        this.#length -= 1
      } else if (outcome === 'aside') {
        from.remove(best)
        this.#standAside(best)
      } else if (outcome === 'blocked') {
        open.splice(open.indexOf(from), 1)
      }
    }
  }

  /**
   * Of those that have not begun the one that is worth least: of the lowest priority, of the tenant that has the most
   * work waiting for its share, and of its newest the first that `isLate`, else the newest. Undefined where none waits.
   */
  leastWorth(isLate: (request: R) => boolean): R | undefined {
    let least: { readonly priority: number; readonly share: number; readonly request: R } | undefined
    for (const line of this.#lines.values()) {
      const found = line.leastWorth(isLate)
      if (!found) continue
      const isLess =
        !least ||
        found.priority < least.priority ||
        (found.priority === least.priority && found.share > least.share)
      if (isLess) least = found
    }
    const aside = this.#asideNew > 0 ? leastOf(this.#aside) : undefined
    if (!aside || !least) return aside ?? least?.request
    if (aside.priority !== least.priority) return aside.priority < least.priority ? aside : least.request
    return aside.arrival > least.request.arrival ? aside : least.request
  }

  #lineOf(request: R): WaitLine<R> {
    const known = this.#lines.get(request.line)
    if (known) return known
    // A line that is empty remembers shares, which must not grow without bound with the models that come and go.
    if (this.#lines.size >= LINES_MAX) {
      for (const [name, line] of this.#lines) if (line.length === 0) this.#lines.delete(name)
    }
    const line = new WaitLine<R>(this.#weightOf)
    this.#lines.set(request.line, line)
    return line
  }

  #standAside(request: R): void {
    let at = this.#aside.length
    while (at > 0 && comesBefore(request, this.#aside[at - 1] ?? request)) at -= 1
    this.#aside.splice(at, 0, request)
    if (!request.hasBegun) this.#asideNew += 1
  }

  #removeAside(request: R): boolean {
    const at = this.#aside.indexOf(request)
    if (at < 0) return false
    this.#aside.splice(at, 1)
    if (!request.hasBegun) this.#asideNew -= 1
    return true
  }

  #takeAside(request: R): void {
    if (!this.#removeAside(request)) return
    if (!request.hasBegun) this.#lineOf(request).charge(request.tenant, request.workTokens)
    this.#length -= 1
  }

  #asideWindow(): R[] {
    const count = this.#aside.length
    if (count <= ASIDE_OFFERED_MAX) return [...this.#aside]
    const begin = this.#asideNext % count
    this.#asideNext = begin + ASIDE_OFFERED_MAX
    return this.#aside.slice(begin, begin + ASIDE_OFFERED_MAX)
  }
}

/** Models and profiles whose shares are remembered while nobody waits for them. */
const LINES_MAX = 64

/** Of the lowest priority the newest that has not begun. */
function leastOf<R extends Waiting>(requests: readonly R[]): R | undefined {
  let least: R | undefined
  for (const request of requests) {
    if (request.hasBegun) continue
    const isLess = least && (least.priority - request.priority || request.arrival - least.arrival) > 0
    if (!least || isLess) least = request
  }
  return least
}

/** Between lines, which share devices but no queue. */
function comesBefore(a: Waiting, b: Waiting): boolean {
  if (a.hasBegun !== b.hasBegun) return a.hasBegun
  if (!a.hasBegun && a.priority !== b.priority) return a.priority > b.priority
  return a.arrival < b.arrival
}
