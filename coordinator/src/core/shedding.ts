/**
 * Requests that are given up before any work is done for them, and what they are told.
 *
 * S1. Only requests that wait and have not begun are shed, never a stream that runs.
 * S2. One that cannot have its first token in time is refused as soon as that is seen: when it comes and has to wait,
 *     when its place would come too late, and when its deadline has passed.
 * S3. Where more wait than may, the one that is worth least gives way (WaitQueue.leastWorth), which may be the newest.
 */
import type { Admission } from './admission.js'
import type { Decision } from './decision.js'
import type { Request } from './request.js'
import { RETRY_AFTER_MS, type RequestBook } from './request-book.js'

/** Forecasts that reach further are not worth waiting by. */
const RETRY_AFTER_MAX_MS = 60_000

export class Shedding {
  readonly #book: RequestBook
  readonly #admission: Admission

  constructor(book: RequestBook, admission: Admission) {
    this.#book = book
    this.#admission = admission
  }

  /** More wait than may: the one that is worth least gives way. */
  makeRoom(newest: Request, nowMs: number): void {
    const waiting = this.#book.queuedCount - 1
    const victim = this.#book.leastWorth((request) => this.#isPredictedLate(request, nowMs))
    if (!victim || victim === newest) {
      this.#book.fail(newest, 'overloaded', `${waiting} requests are waiting already; try again in a moment.`)
      return
    }
    const isLower = victim.priority < newest.priority
    const why = isLower
      ? `one of priority ${newest.priority} came, and this one has ${victim.priority}`
      : 'its tenant has more than its share waiting'
    const message = `${waiting} requests are waiting, and this one gave way: ${why}; try again in a moment.`
    this.#book.shed(victim, isLower ? 'priority' : 'share', message, RETRY_AFTER_MS)
  }

  #isPredictedLate(request: Request, nowMs: number): boolean {
    if (request.ttftDueMs === Number.POSITIVE_INFINITY) return false
    const leftMs = this.#admission.waitingMs(request, this.#book.tokensAhead(request), nowMs)
    return nowMs + leftMs > request.ttftDueMs
  }

  /** A new request that has to wait. */
  judgeWaiting(request: Request, nowMs: number): void {
    request.tokensAhead = this.#book.tokensAhead(request)
    if (request.waitCause === 'none') request.waitCause = 'others'
    if (!this.#admission.isOn || request.ttftDueMs === Number.POSITIVE_INFINITY) return
    const leftMs = this.#admission.waitingMs(request, request.tokensAhead, nowMs)
    if (nowMs + leftMs > request.ttftDueMs) this.#shed('late', request, leftMs, nowMs)
  }

  /** Its place is there, and comes too late. */
  late(request: Request, { ttftMs }: Decision, nowMs: number): boolean {
    if (!this.#admission.isOn || request.ttftDueMs === Number.POSITIVE_INFINITY) return false
    const forecast = this.#admission.forecast(request.line)
    const leftMs = forecast.placedMs(ttftMs)
    if (nowMs + leftMs <= request.ttftDueMs) return false
    if (forecast.mayProbe(nowMs + leftMs - request.submittedAtMs, deadlineMsOf(request), nowMs)) return false
    this.#shed('late', request, leftMs, nowMs)
    return true
  }

  missed(request: Request, nowMs: number): boolean {
    if (!this.#admission.isOn || nowMs <= request.ttftDueMs) return false
    this.#shed('missed', request, this.#admission.waitingMs(request, 0, nowMs), nowMs)
    return true
  }

  /** `leftMs`: predicted from now to its first token. */
  #shed(why: 'late' | 'missed', request: Request, leftMs: number, nowMs: number): void {
    const allowedMs = deadlineMsOf(request)
    const forecastMs = nowMs - request.submittedAtMs + leftMs
    const retryAfterMs = Math.min(RETRY_AFTER_MAX_MS, Math.max(RETRY_AFTER_MS, forecastMs - allowedMs))
    const others = this.#book.queuedCount - 1
    const queue = others > 0 ? `, with ${others} others waiting` : ''
    const what =
      why === 'late'
        ? `Its first token is predicted after ${secondsText(forecastMs)}${queue}`
        : `It waited ${secondsText(nowMs - request.submittedAtMs)}${queue}`
    const again = `try again in ${secondsText(retryAfterMs)}, or allow more time`
    const message = `${what}, and may take ${secondsText(allowedMs)}; ${again}.`
    this.#book.shed(request, why, message, retryAfterMs)
  }
}

function deadlineMsOf({ ttftDueMs, submittedAtMs }: Request): number {
  return ttftDueMs - submittedAtMs
}

function secondsText(ms: number): string {
  return ms < 995 ? `${Math.round(ms)} ms` : `${Number((ms / 1000).toPrecision(3))} s`
}
