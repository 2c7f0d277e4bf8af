/**
 * Requests by id and by trace id: all that live, and the last ones that ended.
 */
import type { RequestReport } from '../generation.js'
import type { RequestSession } from './request-session.js'

export class RequestStore {
  readonly #endedMax: number
  readonly #live = new Map<string, RequestSession>()
  /** In order of ending. */
  readonly #ended = new Map<string, RequestReport>()
  /** Newest request of a trace. */
  readonly #requestOfTrace = new Map<string, string>()

  constructor(endedMax: number) {
    this.#endedMax = endedMax
  }

  add(session: RequestSession): void {
    this.#live.set(session.requestId, session)
    const { traceId } = session.report()
    if (traceId !== '') this.#requestOfTrace.set(traceId, session.requestId)
  }

  live(requestId: string): RequestSession | undefined {
    return this.#live.get(requestId)
  }

  sessions(): RequestSession[] {
    return [...this.#live.values()]
  }

  /** Keeps the report in place of the session. */
  end(session: RequestSession): void {
    if (!this.#live.delete(session.requestId)) return
    this.#ended.set(session.requestId, session.report())
    if (this.#ended.size <= this.#endedMax) return
    for (const [requestId, { traceId }] of this.#ended) {
      this.#ended.delete(requestId)
      if (this.#requestOfTrace.get(traceId) === requestId) this.#requestOfTrace.delete(traceId)
      break
    }
  }

  /** By request id or trace id. */
  report(id: string): RequestReport | undefined {
    const requestId = this.#requestOfTrace.get(id) ?? id
    return this.#live.get(requestId)?.report() ?? this.#ended.get(requestId)
  }
}
