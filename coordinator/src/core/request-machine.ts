/**
 * Takes every request from submission to its end, whatever happens to devices.
 *
 * queued → reserving → running → ended; a loss, a refusal or a preemption leads back
 * to queued, and the next epoch goes on from the next token.
 *
 * M1. Tokens leave in order, each once, whichever epoch they came from (I3).
 * M2. Every state has a deadline (I2): placement, silence of the calls, the request's own.
 * M3. A request survives a bounded number of failures.
 */
import { Admission } from './admission.js'
import { explainNoPlacement, isHopeless, stepAfterNoPlacement } from './decision.js'
import { type DeviceRef, profilesFor } from './facts.js'
import { newRequest } from './new-request.js'
import { type PlacementView, place } from './placement.js'
import { Placing } from './placing.js'
import type { OrderPolicy } from './policies/order-policy.js'
import { ORDERS } from './policies/orders.js'
import type { CoordinatorAction, Fault, RequestEvent, Submission } from './protocol.js'
import { availableTokens, avoid, type Epoch, isNeeded, isPrefillOver, type Request } from './request.js'
import { RequestBook } from './request-book.js'
import type { RequestLimits } from './request-limits.js'
import { isOnItsWay, mayBeHopeless, placementInput, waitsSinceMs } from './request-placement.js'
import { Shedding } from './shedding.js'

export type { RequestLimits } from './request-limits.js'

/** How often it is judged whether waiting can help: not at once, since a device that has just begun may be heard soon. */
const JUDGE_EVERY_MS = 1_000
/** Failures of devices that one request survives. */
const FAILURES_MAX = 8
/** Queue and prefill show no progress in between; a slow device gets ten times what was predicted besides. */
const PREFILL_SILENCE_MAX_MS = 60_000
const DECODE_SILENCE_MAX_MS = 30_000
/** After the last token, for the call to say that it is done. */
const ENDING_MAX_MS = 2_000

export class RequestMachine {
  readonly #cluster: PlacementView
  readonly #limits: RequestLimits
  readonly #book: RequestBook
  readonly #isSparseDefault: boolean
  readonly #admission: Admission
  readonly #order: OrderPolicy
  readonly #shedding: Shedding
  readonly #placing: Placing
  #arrivals = 0
  /** A turn to prefill came free since `placeWaiting`. */
  #hasFreedTurn = false
  /** The newest, until it was tried to place it. */
  #unjudged: Request | undefined

  constructor(cluster: PlacementView, limits: RequestLimits, act: (action: CoordinatorAction) => void) {
    this.#cluster = cluster
    this.#limits = limits
    this.#admission = new Admission(cluster, limits.admission)
    this.#order = ORDERS[limits.policy?.order ?? 'fcfs']
    this.#book = new RequestBook(cluster.view, limits, this.#admission.weightOf, act)
    this.#isSparseDefault = limits.attentionDefault !== 'dense'
    this.#shedding = new Shedding(this.#book, this.#admission)
    this.#placing = new Placing(cluster, limits, this.#book, this.#admission, this.#shedding)
  }

  get queuedCount(): number {
    return this.#book.queuedCount
  }

  /** Something came free that others may wait for. */
  get hasFreedTurn(): boolean {
    return this.#hasFreedTurn
  }

  get activeCount(): number {
    return this.#book.activeCount
  }

  submit(asked: Submission, nowMs: number): void {
    if (this.#book.get(asked.requestId)) return
    this.#arrivals += 1
    const request = newRequest(asked, this.#arrivals, this.#admission, this.#order, this.#limits, nowMs)
    this.#book.add(request)
    this.#unjudged = request
    if (this.#book.isQueueOverfull) this.#shedding.makeRoom(request, nowMs)
  }

  cancel(requestId: string): void {
    const request = this.#book.get(requestId)
    if (request) this.#book.cancel(request)
  }

  /** An event of an epoch; ignored when that epoch is over. */
  on(event: RequestEvent, nowMs: number): void {
    const request = this.#book.get(event.requestId)
    const epoch = request?.epoch
    if (!request || epoch?.number !== event.epoch) return
    if (event.type === 'call-failed') {
      // A prefilling device that is no longer needed may fail.
      if (event.call === 'prefill' && isPrefillOver(epoch)) return
      this.#fault(request, epoch, event.fault, event.deviceId, nowMs)
      return
    }
    request.progressByMs = nowMs + silenceMaxMs(epoch)
    switch (event.type) {
      case 'reserved':
        if (request.state === 'reserving') this.#book.run(request, epoch, nowMs)
        break
      case 'prefill-admitted':
        break
      case 'prefill-finished':
        this.#prefillFinished(request, epoch, event.stopped, nowMs)
        break
      case 'kv-sent':
        this.#book.giveBack(epoch, 'prompt')
        break
      case 'decode-started':
        epoch.hasDecodeStarted = true
        this.#giveBackTurn(epoch)
        break
      case 'tokens':
        this.#tokens(request, epoch, event.firstIndex, event.count, nowMs)
        break
      case 'decode-finished':
        this.#decodeFinished(request, epoch, event.reason, nowMs)
    }
  }

  /** A life of a device is over: what runs on it goes elsewhere. */
  deviceLost(device: DeviceRef, nowMs: number): void {
    for (const request of this.#book.all()) {
      const { epoch } = request
      if (epoch && isNeeded(epoch, device)) {
        this.#fault(request, epoch, 'unreachable', device.deviceId, nowMs)
      }
    }
  }

  /**
   * Places what can be placed, in the order of the queue among requests for one model. `isTimeOver`: what was found
   * to have no place is tried again although nothing came free, since some refusals end with time.
   */
  placeWaiting(nowMs: number, isTimeOver: boolean): void {
    this.#hasFreedTurn = false
    const blocked = new Set<string>()
    this.#book.sweepQueue(nowMs, (request) => this.#placing.offer(request, blocked, isTimeOver, nowMs))
    const newest = this.#unjudged
    this.#unjudged = undefined
    if (newest?.state === 'queued' && this.#book.get(newest.requestId) === newest) {
      this.#shedding.judgeWaiting(newest, nowMs)
    }
    this.#admission.noteWaiting((line) => this.#book.isAnyoneWaiting(line), nowMs)
  }

  /** Ends what waited or was silent for too long. */
  expire(nowMs: number): void {
    for (const request of this.#book.all()) {
      if (nowMs >= request.deadlineMs) {
        const seconds = Math.round(this.#limits.requestDeadlineMs / 1000)
        const message = `The request took longer than ${seconds} s; ask for fewer tokens.`
        this.#book.fail(request, 'deadline', message)
      } else if (request.state === 'queued') {
        if (!request.hasBegun && this.#shedding.missed(request, nowMs)) continue
        if (nowMs >= request.placeByMs) this.#failUnplaced(request, nowMs, false)
        else if (nowMs >= request.judgedAtMs + JUDGE_EVERY_MS) {
          request.judgedAtMs = nowMs
          if (mayBeHopeless(request, this.#cluster.view)) this.#failUnplaced(request, nowMs, true)
        }
      } else if (request.epoch && nowMs >= request.progressByMs) {
        const { awaitsPrefill, decision } = request.epoch
        const silent = awaitsPrefill && request.state === 'running' ? decision.prefill : decision.decode
        this.#fault(request, request.epoch, 'broken', silent.deviceId, nowMs)
      }
    }
  }

  #prefillFinished(request: Request, epoch: Epoch, stopped: boolean, nowMs: number): void {
    this.#giveBackTurn(epoch)
    if (!epoch.awaitsPrefill) return
    epoch.awaitsPrefill = false
    // The token that it sampled was emitted long ago.
    if (epoch.isReplay) return
    if (stopped) {
      this.#finish(request, 'stop')
      return
    }
    // Of a request for one token nothing is left to decode: the calls are stopped.
    if (epoch.firstIndex + 1 >= request.maxTokens) epoch.finished = 'length'
    this.#advance(request, epoch, nowMs)
  }

  #tokens(request: Request, epoch: Epoch, firstIndex: number, count: number, nowMs: number): void {
    // A device that decodes what it received may send the first token too.
    if (firstIndex <= epoch.firstIndex) epoch.awaitsPrefill = false
    if (firstIndex > epoch.decodeNext) {
      this.#fault(request, epoch, 'broken', epoch.decision.decode.deviceId, nowMs)
      return
    }
    epoch.hasDecodeStarted = true
    epoch.decodeNext = Math.max(epoch.decodeNext, firstIndex + count)
    this.#giveBackTurn(epoch)
    this.#advance(request, epoch, nowMs)
  }

  #decodeFinished(
    request: Request,
    epoch: Epoch,
    reason: 'stop' | 'length' | 'preempted',
    nowMs: number,
  ): void {
    if (reason === 'preempted') {
      const { deviceId } = epoch.decision.decode
      this.#cluster.view.refused(deviceId, nowMs)
      this.#book.placeAnew(request, epoch, 'refusal', `${deviceId} took its memory back`, nowMs)
      return
    }
    epoch.finished = reason
    this.#advance(request, epoch, nowMs)
  }

  /** Hands on what has become available, and ends the request where that was all. */
  #advance(request: Request, epoch: Epoch, nowMs: number): void {
    const count = availableTokens(request, epoch) - request.emitted
    if (count > 0) {
      if (request.emitted === 0) this.#firstToken(request, epoch, nowMs)
      this.#book.emit(request, count)
    }
    if (epoch.awaitsPrefill) return
    if (epoch.finished) this.#finish(request, epoch.finished)
    else if (request.emitted >= request.maxTokens) request.progressByMs = nowMs + ENDING_MAX_MS
  }

  #giveBackTurn(epoch: Epoch): void {
    if (!epoch.shares.has('turn')) return
    this.#book.giveBack(epoch, 'turn')
    this.#hasFreedTurn = true
  }

  #firstToken(request: Request, epoch: Epoch, nowMs: number): void {
    const { placedAtMs, decision } = epoch
    this.#admission.forecast(request.line).observe(decision.ttftMs, nowMs - placedAtMs, nowMs)
  }

  #finish(request: Request, reason: 'stop' | 'length'): void {
    this.#admission.answered(request.line, request.emitted)
    this.#book.finish(request, reason)
  }

  #fault(request: Request, epoch: Epoch, fault: Fault, deviceId: string, nowMs: number): void {
    if (request.emitted >= request.maxTokens) {
      this.#finish(request, 'length')
      return
    }
    switch (fault) {
      case 'rejected':
        this.#book.fail(request, 'rejected', `${deviceId} cannot serve this request.`)
        return
      case 'refused':
        this.#cluster.view.refused(deviceId, nowMs)
        this.#book.placeAnew(request, epoch, 'refusal', `${deviceId} refused`, nowMs)
        return
      case 'unreachable': {
        const { prefill, decode, attention } = epoch.decision
        const device = [decode, prefill, attention.attend].find((ref) => ref?.deviceId === deviceId)
        if (device) this.#cluster.view.suspect(device)
        avoid(request, deviceId, nowMs)
        this.#survive(request, epoch, `${deviceId} was lost`, nowMs)
        return
      }
      case 'lease-expired':
        this.#survive(request, epoch, `a lease on ${deviceId} ended`, nowMs)
        return
      case 'broken':
        avoid(request, deviceId, nowMs)
        this.#survive(request, epoch, `${deviceId} failed`, nowMs)
    }
  }

  #survive(request: Request, epoch: Epoch, cause: string, nowMs: number): void {
    request.failures += 1
    if (request.failures <= FAILURES_MAX) {
      this.#book.placeAnew(request, epoch, 'failure', cause, nowMs)
    } else {
      const message = `The request was moved ${FAILURES_MAX} times, lastly because ${cause}; try again.`
      this.#book.fail(request, 'unavailable', message)
    }
  }

  /** `isEarly`: only where no waiting will help. */
  #failUnplaced(request: Request, nowMs: number, isEarly: boolean): void {
    const outcome = place(
      placementInput(request, profilesFor(request.profile), this.#isSparseDefault, nowMs),
      this.#cluster,
      this.#limits,
      nowMs,
    )
    if (isEarly && (outcome.placed || !isHopeless(outcome.tried) || isOnItsWay(request, this.#cluster.view)))
      return
    const why = outcome.placed ? 'others were first' : explainNoPlacement(outcome.tried)
    const step = outcome.placed ? 'try again' : stepAfterNoPlacement(outcome.tried)
    const seconds = Math.round((nowMs - waitsSinceMs(request, this.#limits.placementDeadlineMs)) / 1000)
    const message = `No device took the request within ${seconds} s (${why}); ${step}.`
    this.#book.fail(request, 'unavailable', message)
  }
}

function silenceMaxMs(epoch: Epoch): number {
  if (epoch.hasDecodeStarted) return DECODE_SILENCE_MAX_MS
  return PREFILL_SILENCE_MAX_MS + 10 * epoch.decision.ttftMs
}
