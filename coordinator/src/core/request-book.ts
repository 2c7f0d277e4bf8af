/**
 * The requests that live, and the moves between their states: what each move takes,
 * gives back and tells the shell. Which move is made when is not decided here.
 *
 * B1. A request that waits holds nothing (no deadlock between prefill and decode).
 * B2. What an epoch took of the view is given back when it ends, however it ends.
 * B3. Every request that was added ends with exactly one of finish, fail, cancelled.
 */
import { PAGE_TOKENS } from './attention-plan.js'
import type { ClusterView } from './cluster-view.js'
import type { Decision } from './decision.js'
import type { DeviceRef } from './facts.js'
import type { CoordinatorAction, FailCode, ShedReason, WaitNote } from './protocol.js'
import { type Epoch, movesToAnotherDevice, mustReplay, type Request, type Share } from './request.js'
import { ShareBook, type ShareWish } from './share-book.js'
import { type Offer, WaitQueue } from './wait-queue.js'

/** The shell gives a Reserve call 2 s; this is for a shell that does not answer. */
const RESERVE_SILENCE_MAX_MS = 5_000
export const RETRY_AFTER_MS = 1_000

export class RequestBook {
  readonly #requests = new Map<string, Request>()
  readonly #queue: WaitQueue<Request>
  readonly #shares: ShareBook
  readonly #placementDeadlineMs: number
  readonly #act: (action: CoordinatorAction) => void

  constructor(
    view: ClusterView,
    limits: { readonly queuedMax: number; readonly placementDeadlineMs: number },
    weightOf: (tenant: string) => number,
    act: (action: CoordinatorAction) => void,
  ) {
    this.#queue = new WaitQueue(limits.queuedMax, weightOf)
    this.#shares = new ShareBook(view)
    this.#placementDeadlineMs = limits.placementDeadlineMs
    this.#act = act
  }

  get queuedCount(): number {
    return this.#queue.length
  }

  get activeCount(): number {
    return this.#requests.size - this.#queue.length
  }

  /** More wait than may. */
  get isQueueOverfull(): boolean {
    return this.#queue.isOverfull
  }

  get(requestId: string): Request | undefined {
    return this.#requests.get(requestId)
  }

  /** All that live now; they may end meanwhile. */
  all(): Iterable<Request> {
    return this.#requests.values()
  }

  /** Takes a new request, which waits. */
  add(request: Request): void {
    this.#requests.set(request.requestId, request)
    this.#queue.add(request)
  }

  /** Offers the waiting requests in order. */
  sweepQueue(nowMs: number, offer: (request: Request) => Offer): void {
    this.#queue.sweep(nowMs, offer)
  }

  /** Work that is placed before this request, tokens. */
  tokensAhead(request: Request): number {
    return this.#queue.tokensAhead(request)
  }

  isAnyoneWaiting(line: string): boolean {
    return this.#queue.isAnyoneWaiting(line)
  }

  /** Of those that wait and have not begun. */
  leastWorth(isLate: (request: Request) => boolean): Request | undefined {
    return this.#queue.leastWorth(isLate)
  }

  /** A waiting request gets an epoch, and its decoding device is asked for memory. */
  reserve(
    request: Request,
    decision: Decision,
    tokens: { readonly prompt: number; readonly reserve: number },
    nowMs: number,
  ): void {
    request.isCharged = true
    request.epochs = decision.epoch
    const epoch: Epoch = {
      number: decision.epoch,
      decision,
      firstIndex: request.emitted,
      isReplay: mustReplay(request),
      placedAtMs: nowMs,
      shares: new Map(),
      awaitsPrefill: false,
      decodeNext: request.emitted,
      hasDecodeStarted: false,
      finished: null,
    }
    const { prefill, decode } = decision
    const take = (share: Share, device: DeviceRef, wish: ShareWish): void => {
      const model = { digest: request.modelDigest, profile: decision.profile }
      this.#shares.take(model, epoch, share, device, wish)
    }
    if (movesToAnotherDevice(epoch)) {
      epoch.awaitsPrefill = true
      if (!epoch.isReplay) epoch.decodeNext += 1
      take('prompt', prefill, { kvTokens: tokens.prompt })
    }
    take('turn', prefill, { prefillTokens: decision.prefix.computeTokens })
    take('decode', decode, { slots: 1, kvTokens: tokens.reserve })
    const { attend, attendPages } = decision.attention
    if (attend) take('attend', attend, { kvTokens: attendPages * PAGE_TOKENS })
    request.epoch = epoch
    request.state = 'reserving'
    request.progressByMs = nowMs + RESERVE_SILENCE_MAX_MS
    const { requestId } = request
    const wait: WaitNote = {
      waitedMs: nowMs - request.submittedAtMs,
      tokensAhead: request.tokensAhead,
      cause: request.waitCause,
    }
    this.#act({ type: 'reserve', requestId, epoch: epoch.number, tokens: tokens.reserve, decision, wait })
  }

  /** Memory is there: the calls start. */
  run(request: Request, epoch: Epoch, nowMs: number): void {
    request.state = 'running'
    request.hasBegun = true
    const { method, budget } = epoch.decision.attention
    request.attentionSettled ??= { method, budget }
    this.#act({
      type: 'run',
      requestId: request.requestId,
      epoch: epoch.number,
      prefill: movesToAnotherDevice(epoch) ? epoch.decision.prefill : null,
      decode: epoch.decision.decode,
      firstIndex: epoch.isReplay ? 0 : epoch.firstIndex,
      replayed: epoch.isReplay ? epoch.firstIndex : 0,
      timeoutMs: Math.max(1, Math.ceil(request.deadlineMs - nowMs)),
    })
  }

  giveBack(epoch: Epoch, share: Share): void {
    this.#shares.giveBack(epoch, share)
  }

  /** Hands tokens on to the client. */
  emit(request: Request, count: number): void {
    this.#act({ type: 'emit', requestId: request.requestId, from: request.emitted, count })
    request.emitted += count
  }

  /**
   * Ends the epoch; the request waits again, before those that have not begun. The wait starts anew after
   * progress and after a failure, of which a request survives only some. A refusal does neither, and could
   * come for ever: then only the time that a device worked on the request is not counted as waiting.
   */
  placeAnew(request: Request, epoch: Epoch, why: 'failure' | 'refusal', cause: string, nowMs: number): void {
    const hasProgressed = request.emitted > epoch.firstIndex
    if (hasProgressed || (why === 'failure' && request.hasBegun)) {
      request.placeByMs = nowMs + this.#placementDeadlineMs
    } else if (request.state === 'running') {
      request.placeByMs += nowMs - epoch.placedAtMs
    }
    this.#abandon(request, cause)
    // Nothing was done for it, and it is charged again with its next place.
    if (!request.hasBegun) this.#settle(request, 0)
    request.movedBecause = cause
    request.state = 'queued'
    request.stuck = null
    request.judgedAtMs = nowMs
    request.progressByMs = Number.POSITIVE_INFINITY
    this.#queue.add(request)
    this.#act({ type: 'requeue', requestId: request.requestId, cause })
  }

  finish(request: Request, reason: 'stop' | 'length'): void {
    if (request.epoch) this.#shares.giveBackAll(request.epoch)
    this.#forget(request)
    this.#act({ type: 'finish', requestId: request.requestId, reason })
  }

  fail(request: Request, code: FailCode, message: string): void {
    this.#abandon(request, message)
    this.#forget(request)
    const { requestId } = request
    this.#act({ type: 'fail', requestId, code, message, retryAfterMs: RETRY_AFTER_MS })
  }

  /** Of one that waits and has not begun. */
  shed(request: Request, shed: ShedReason, message: string, retryAfterMs: number): void {
    this.#forget(request)
    const { requestId } = request
    this.#act({ type: 'fail', requestId, code: 'shed', message, retryAfterMs, shed })
  }

  cancel(request: Request): void {
    this.#abandon(request, 'the request was cancelled')
    this.#forget(request)
    this.#act({ type: 'cancelled', requestId: request.requestId })
  }

  #abandon(request: Request, cause: string): void {
    const { epoch, requestId } = request
    if (!epoch) return
    this.#shares.giveBackAll(epoch)
    request.epoch = null
    this.#act({ type: 'abandon', requestId, epoch: epoch.number, cause })
  }

  #forget(request: Request): void {
    this.#requests.delete(request.requestId)
    if (request.state === 'queued') this.#queue.remove(request)
    this.#settle(request, request.hasBegun ? request.promptTokens + request.emitted : 0)
  }

  /** The tenant is charged for what was done, which is less or more than was expected. */
  #settle(request: Request, tokens: number): void {
    if (!request.isCharged) return
    request.isCharged = false
    this.#queue.settle(request, tokens)
  }
}
