/**
 * Takes every request from submission to its end, whatever happens to devices.
 *
 * queued → reserving → running → ended; a loss, a refusal or a preemption leads back
 * to queued, and the next epoch goes on from the next token.
 *
 * M1. A request that waits holds nothing (no deadlock between prefill and decode).
 * M2. Tokens leave in order, each once, whichever epoch they came from (I3).
 * M3. Every state has a deadline (I2): placement, silence of the calls, the request's own.
 * M4. What an epoch took of the view is given back when it ends.
 */
import type { ClusterView } from './cluster-view.js'
import type { CostModel } from './cost-model.js'
import { explainNoPlacement } from './decision.js'
import type { DeviceRef, ProfileName } from './facts.js'
import { type PlacementInput, type PlacementLimits, place } from './placement.js'
import type { CoordinatorAction, FailCode, Fault, RequestEvent } from './protocol.js'
import {
  availableTokens,
  avoid,
  avoids,
  type Epoch,
  isNeeded,
  isPrefillOver,
  movesToAnotherDevice,
  type Request,
} from './request.js'
import { ShareBook } from './share-book.js'
import { WaitQueue } from './wait-queue.js'

export interface RequestLimits extends PlacementLimits {
  /** Requests that wait before they have begun; more are refused. */
  readonly queuedMax: number
  /** Longest wait for a placement, the first or a later one. */
  readonly placementDeadlineMs: number
  /** Longest life of a request. */
  readonly requestDeadlineMs: number
}

/** Room for tokens that are still to come is asked for in steps of at most this many. */
const RESERVE_AHEAD_TOKENS = 256
/** Failures of devices that one request survives. */
const FAILURES_MAX = 8
/** The shell gives a Reserve call 2 s; this is for a shell that does not answer. */
const RESERVE_SILENCE_MAX_MS = 5_000
/** Queue and prefill show no progress in between; a slow device gets ten times what was predicted besides. */
const PREFILL_SILENCE_MAX_MS = 60_000
const DECODE_SILENCE_MAX_MS = 30_000
/** After the last token, for the call to say that it is done. */
const ENDING_MAX_MS = 2_000
const RETRY_AFTER_MS = 1_000

export class RequestMachine {
  readonly #requests = new Map<string, Request>()
  readonly #queue: WaitQueue
  readonly #view: ClusterView
  readonly #costs: CostModel
  readonly #limits: RequestLimits
  readonly #shares: ShareBook
  readonly #act: (action: CoordinatorAction) => void
  #arrivals = 0

  constructor(
    view: ClusterView,
    costs: CostModel,
    limits: RequestLimits,
    act: (action: CoordinatorAction) => void,
  ) {
    this.#view = view
    this.#costs = costs
    this.#limits = limits
    this.#shares = new ShareBook(view)
    this.#act = act
    this.#queue = new WaitQueue(limits.queuedMax)
  }

  get queuedCount(): number {
    return this.#queue.length
  }

  get activeCount(): number {
    return this.#requests.size - this.#queue.length
  }

  submit(
    asked: {
      readonly requestId: string
      readonly modelDigest: string
      readonly profile: ProfileName
      readonly promptTokens: number
      readonly maxTokens: number
    },
    nowMs: number,
  ): void {
    const { requestId, modelDigest, profile, promptTokens, maxTokens } = asked
    if (this.#requests.has(requestId)) return
    if (this.#queue.isFull) {
      const message = `${this.#queue.length} requests are waiting already; try again in a moment.`
      this.#act({ type: 'fail', requestId, code: 'overloaded', message, retryAfterMs: RETRY_AFTER_MS })
      return
    }
    const request: Request = {
      requestId,
      arrival: ++this.#arrivals,
      modelDigest,
      profile,
      promptTokens,
      maxTokens,
      deadlineMs: nowMs + this.#limits.requestDeadlineMs,
      state: 'queued',
      hasBegun: false,
      emitted: 0,
      epochs: 0,
      epoch: null,
      placeByMs: nowMs + this.#limits.placementDeadlineMs,
      progressByMs: Number.POSITIVE_INFINITY,
      failures: 0,
      movedBecause: null,
      avoided: new Map(),
    }
    this.#requests.set(requestId, request)
    this.#queue.add(request)
  }

  cancel(requestId: string): void {
    const request = this.#requests.get(requestId)
    if (!request) return
    this.#abandon(request, 'the request was cancelled')
    this.#forget(request)
    this.#act({ type: 'cancelled', requestId })
  }

  /** An event of an epoch; ignored when that epoch is over. */
  on(event: RequestEvent, nowMs: number): void {
    const request = this.#requests.get(event.requestId)
    const epoch = request?.epoch
    if (!request || epoch?.number !== event.epoch) return
    if (event.type === 'call-failed') {
      this.#callFailed(request, epoch, event, nowMs)
      return
    }
    request.progressByMs = nowMs + this.#silenceMaxMs(epoch)
    switch (event.type) {
      case 'reserved':
        this.#run(request, epoch, nowMs)
        break
      case 'prefill-admitted':
        break
      case 'prefill-finished':
        this.#prefillFinished(request, epoch, event.stopped, nowMs)
        break
      case 'kv-sent':
        this.#shares.giveBack(epoch, 'prompt')
        break
      case 'decode-started':
        epoch.hasDecodeStarted = true
        this.#shares.giveBack(epoch, 'turn')
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
    for (const request of [...this.#requests.values()]) {
      const epoch = request.epoch
      if (epoch && isNeeded(epoch, device)) {
        this.#fault(request, epoch, 'unreachable', device.deviceId, nowMs)
      }
    }
  }

  /** Places what can be placed, first come first served among requests for one model. */
  placeWaiting(nowMs: number): void {
    const blocked = new Set<string>()
    this.#queue.sweep(({ requestId }) => {
      const request = this.#requests.get(requestId)
      if (!request) return true
      const model = `${request.modelDigest}/${request.profile}`
      if (blocked.has(model)) return false
      const outcome = place(this.#input(request, nowMs), this.#view, this.#costs, this.#limits, nowMs)
      if (!outcome.placed) {
        // One that avoids certain devices says nothing about those behind it.
        const isPicky = [...request.avoided.keys()].some((deviceId) => avoids(request, deviceId, nowMs))
        if (!isPicky) blocked.add(model)
        return false
      }
      this.#reserve(request, outcome.decision, nowMs)
      return true
    })
  }

  /** Ends what waited or was silent for too long. */
  expire(nowMs: number): void {
    for (const request of [...this.#requests.values()]) {
      if (nowMs >= request.deadlineMs) {
        const seconds = Math.round(this.#limits.requestDeadlineMs / 1000)
        this.#fail(request, 'deadline', `The request took longer than ${seconds} s; ask for fewer tokens.`)
      } else if (request.state === 'queued') {
        if (nowMs >= request.placeByMs) this.#failUnplaced(request, nowMs)
      } else if (request.epoch && nowMs >= request.progressByMs) {
        const { awaitsPrefill, decision } = request.epoch
        const silent = awaitsPrefill && request.state === 'running' ? decision.prefill : decision.decode
        this.#fault(request, request.epoch, 'broken', silent.deviceId, nowMs)
      }
    }
  }

  #input(request: Request, nowMs: number): PlacementInput {
    const tokensLeft = request.maxTokens - request.emitted
    return {
      requestId: request.requestId,
      epoch: request.epochs + 1,
      modelDigest: request.modelDigest,
      profile: request.profile,
      prefillTokens: request.promptTokens + request.emitted,
      reserveTokens: request.promptTokens + request.emitted + Math.min(tokensLeft, RESERVE_AHEAD_TOKENS),
      tokensLeft,
      movedBecause: request.movedBecause,
      avoids: (deviceId) => avoids(request, deviceId, nowMs),
    }
  }

  #reserve(request: Request, decision: Epoch['decision'], nowMs: number): void {
    const { prefillTokens, reserveTokens } = this.#input(request, nowMs)
    request.epochs = decision.epoch
    const epoch: Epoch = {
      number: decision.epoch,
      decision,
      firstIndex: request.emitted,
      shares: new Map(),
      awaitsPrefill: false,
      decodeNext: request.emitted,
      hasDecodeStarted: false,
      finished: null,
    }
    if (movesToAnotherDevice(epoch)) {
      epoch.awaitsPrefill = true
      epoch.decodeNext += 1
      this.#shares.take(request, epoch, 'prompt', decision.prefill, { kvTokens: prefillTokens })
    }
    this.#shares.take(request, epoch, 'turn', decision.prefill, { prefillTokens })
    this.#shares.take(request, epoch, 'decode', decision.decode, { slots: 1, kvTokens: reserveTokens })
    request.epoch = epoch
    request.state = 'reserving'
    request.progressByMs = nowMs + RESERVE_SILENCE_MAX_MS
    const { requestId } = request
    this.#act({ type: 'reserve', requestId, epoch: epoch.number, tokens: reserveTokens, decision })
  }

  #run(request: Request, epoch: Epoch, nowMs: number): void {
    if (request.state !== 'reserving') return
    request.state = 'running'
    request.hasBegun = true
    this.#act({
      type: 'run',
      requestId: request.requestId,
      epoch: epoch.number,
      prefill: movesToAnotherDevice(epoch) ? epoch.decision.prefill : null,
      decode: epoch.decision.decode,
      firstIndex: epoch.firstIndex,
      timeoutMs: Math.max(1, Math.ceil(request.deadlineMs - nowMs)),
    })
  }

  #prefillFinished(request: Request, epoch: Epoch, stopped: boolean, nowMs: number): void {
    this.#shares.giveBack(epoch, 'turn')
    if (!epoch.awaitsPrefill) return
    epoch.awaitsPrefill = false
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
    this.#shares.giveBack(epoch, 'turn')
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
      this.#view.refused(deviceId, nowMs)
      this.#placeAnew(request, `${deviceId} took its memory back`, nowMs)
      return
    }
    epoch.finished = reason
    this.#advance(request, epoch, nowMs)
  }

  /** Hands on what has become available, and ends the request where that was all. */
  #advance(request: Request, epoch: Epoch, nowMs: number): void {
    const count = availableTokens(request, epoch) - request.emitted
    if (count > 0) {
      this.#act({ type: 'emit', requestId: request.requestId, from: request.emitted, count })
      request.emitted += count
    }
    if (epoch.awaitsPrefill) return
    if (epoch.finished) this.#finish(request, epoch.finished)
    else if (request.emitted >= request.maxTokens) request.progressByMs = nowMs + ENDING_MAX_MS
  }

  #callFailed(
    request: Request,
    epoch: Epoch,
    failure: { readonly call: string; readonly fault: Fault; readonly deviceId: string },
    nowMs: number,
  ): void {
    if (failure.call === 'prefill' && isPrefillOver(epoch)) return
    this.#fault(request, epoch, failure.fault, failure.deviceId, nowMs)
  }

  #fault(request: Request, epoch: Epoch, fault: Fault, deviceId: string, nowMs: number): void {
    if (request.emitted >= request.maxTokens) {
      this.#finish(request, 'length')
      return
    }
    switch (fault) {
      case 'rejected':
        this.#fail(request, 'rejected', `${deviceId} cannot serve this request.`)
        return
      case 'refused':
        this.#view.refused(deviceId, nowMs)
        this.#placeAnew(request, `${deviceId} refused`, nowMs)
        return
      case 'unreachable': {
        const { prefill, decode } = epoch.decision
        const device = [decode, prefill].find((ref) => ref.deviceId === deviceId)
        if (device) this.#view.suspect(device)
        avoid(request, deviceId, nowMs)
        this.#survive(request, `${deviceId} was lost`, nowMs)
        return
      }
      case 'lease-expired':
        this.#survive(request, `a lease on ${deviceId} ended`, nowMs)
        return
      case 'broken':
        avoid(request, deviceId, nowMs)
        this.#survive(request, `${deviceId} failed`, nowMs)
    }
  }

  #survive(request: Request, cause: string, nowMs: number): void {
    request.failures += 1
    if (request.failures <= FAILURES_MAX) {
      this.#placeAnew(request, cause, nowMs)
    } else {
      const message = `The request was moved ${FAILURES_MAX} times, lastly because ${cause}; try again.`
      this.#fail(request, 'unavailable', message)
    }
  }

  #placeAnew(request: Request, cause: string, nowMs: number): void {
    this.#abandon(request, cause)
    request.movedBecause = cause
    request.state = 'queued'
    request.progressByMs = Number.POSITIVE_INFINITY
    // A refusal before anything ran does not start the wait anew, or it would never end.
    if (request.hasBegun) request.placeByMs = nowMs + this.#limits.placementDeadlineMs
    this.#queue.add(request)
    this.#act({ type: 'requeue', requestId: request.requestId, cause })
  }

  #finish(request: Request, reason: 'stop' | 'length'): void {
    if (request.epoch) this.#shares.giveBackAll(request.epoch)
    this.#forget(request)
    this.#act({ type: 'finish', requestId: request.requestId, reason })
  }

  #failUnplaced(request: Request, nowMs: number): void {
    const outcome = place(this.#input(request, nowMs), this.#view, this.#costs, this.#limits, nowMs)
    const why = outcome.placed ? 'others were first' : explainNoPlacement(outcome.filtered)
    const seconds = this.#limits.placementDeadlineMs / 1000
    this.#fail(request, 'unavailable', `No device took the request within ${seconds} s (${why}); try again.`)
  }

  #fail(request: Request, code: FailCode, message: string): void {
    this.#abandon(request, message)
    this.#forget(request)
    const { requestId } = request
    this.#act({ type: 'fail', requestId, code, message, retryAfterMs: RETRY_AFTER_MS })
  }

  #forget(request: Request): void {
    this.#requests.delete(request.requestId)
    if (request.state === 'queued') this.#queue.remove(request.requestId)
  }

  #abandon(request: Request, cause: string): void {
    const { epoch, requestId } = request
    if (!epoch) return
    this.#shares.giveBackAll(epoch)
    request.epoch = null
    this.#act({ type: 'abandon', requestId, epoch: epoch.number, cause })
  }

  #silenceMaxMs(epoch: Epoch): number {
    if (epoch.hasDecodeStarted) return DECODE_SILENCE_MAX_MS
    return PREFILL_SILENCE_MAX_MS + 10 * epoch.decision.ttftMs
  }
}
