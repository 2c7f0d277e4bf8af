/**
 * Requests by id and by trace id: all that live, and the last ones that ended.
 *
 * Invariant: who asks with another tenant's salt, or none, does not learn what was retrieved for a request:
 * ids of requests are no secret, and titles are a tenant's own.
 */
import type { RequestReport } from '../generation.js'
import type { RequestSession } from './request-session.js'

interface KeptReport {
  readonly report: RequestReport
  readonly tenantSalt: Uint8Array
}

export class RequestStore {
  readonly #endedMax: number
  readonly #live = new Map<string, RequestSession>()
  /** In order of ending. */
  readonly #ended = new Map<string, KeptReport>()
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
    const report = session.report()
    this.#ended.set(session.requestId, { report, tenantSalt: session.tenantSalt })
    if (this.#ended.size <= this.#endedMax) return
    for (const [requestId, ended] of this.#ended) {
      const { traceId } = ended.report
      this.#ended.delete(requestId)
      if (this.#requestOfTrace.get(traceId) === requestId) this.#requestOfTrace.delete(traceId)
      break
    }
  }

  /** By request id or trace id. */
  report(id: string, tenantSalt?: Uint8Array): RequestReport | undefined {
    const requestId = this.#requestOfTrace.get(id) ?? id
    const live = this.#live.get(requestId)
    const kept = live ? { report: live.report(), tenantSalt: live.tenantSalt } : this.#ended.get(requestId)
    if (!kept) return undefined
    const isOwn = tenantSalt !== undefined && Buffer.from(kept.tenantSalt).equals(tenantSalt)
    return isOwn ? kept.report : { ...kept.report, retrieval: null }
  }
}
