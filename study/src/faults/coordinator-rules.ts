/**
 * Checks the coordinator's core against a model of its own, event by event.
 *
 * What must hold: every request ends once, by its deadline, and waits in a bounded queue (I2); tokens leave in order, each
 * once, none that was not sampled, and all of them where it finishes (I3); every reservation ends with finish or abandon
 * (I4); nothing is placed on a device that was not heard of (I5); and the core's own counts.
 */
import { TICK_MS } from '@kvasir/coordinator/core/coordinator-core'
import type { Decision } from '@kvasir/coordinator/core/decision'
import type { DeviceRef } from '@kvasir/coordinator/core/facts'
import type { CoordinatorAction, CoordinatorEvent } from '@kvasir/coordinator/core/protocol'
import type { RequestLimits } from '@kvasir/coordinator/core/request-machine'
import type { AnyCoordinatorCore } from '../cluster/world.js'
import { HearingRules } from './hearing-rules.js'
import type { RequestLedger } from './request-ledger.js'
import { Violation } from './violation.js'

type Action<Type extends CoordinatorAction['type']> = Extract<CoordinatorAction, { type: Type }>

export interface EndedEpoch {
  readonly requestId: string
  readonly epoch: number
  readonly decision: Decision
  readonly atMs: number
}

interface Live {
  readonly requestId: string
  readonly submittedMs: number
  readonly maxTokens: number
  readonly outputTokens: number
  emitted: number
  epochs: number
  open: { readonly number: number; readonly decision: Decision; isReserved: boolean } | undefined
  queuedSinceMs: number
}

/** Times meet whole ticks, and a tick may come a moment late. */
const SLACK_MS = TICK_MS + 1

export class CoordinatorRules {
  readonly #limits: RequestLimits
  readonly #core: Pick<AnyCoordinatorCore, 'queuedCount' | 'activeCount' | 'view'>
  readonly #ledger: RequestLedger
  readonly #hearing = new HearingRules()
  readonly #live = new Map<string, Live>()
  readonly #ended = new Set<string>()
  readonly #epochEnded: (epoch: EndedEpoch) => void

  constructor(
    limits: RequestLimits,
    core: Pick<AnyCoordinatorCore, 'queuedCount' | 'activeCount' | 'view'>,
    ledger: RequestLedger,
    epochEnded: (epoch: EndedEpoch) => void,
  ) {
    this.#limits = limits
    this.#core = core
    this.#ledger = ledger
    this.#epochEnded = epochEnded
  }

  /** Number of the epoch in force. */
  openEpoch(requestId: string): number | undefined {
    return this.#live.get(requestId)?.open?.number
  }

  isAlive(requestId: string): boolean {
    return this.#live.has(requestId)
  }

  /** Where the epoch in force decodes. */
  decodesOn(requestId: string): string {
    return this.#live.get(requestId)?.open?.decision.decode.deviceId ?? ''
  }

  on(event: CoordinatorEvent, actions: readonly CoordinatorAction[], nowMs: number): void {
    this.#hearing.on(event, nowMs)
    const waitedBefore = event.type === 'submit' ? this.#waiting().length : 0
    if (event.type === 'submit') this.#submitted(event, nowMs)
    this.#suspects(event, actions)
    const isOfOpen = 'epoch' in event && this.openEpoch(event.requestId) === event.epoch
    if ('epoch' in event && !isOfOpen) checkFenced(event, actions)
    for (const action of actions) this.#take(event, action, isOfOpen, nowMs)
    if (event.type === 'tick') this.#checkTick(nowMs)
    else if (event.type === 'submit') this.#checkBound(waitedBefore)
  }

  checkRest(): void {
    const [left] = this.#live.keys()
    if (left !== undefined) fail('I2', `${left} never ended`, left)
    for (const { facts, models } of this.#core.view.devices()) {
      for (const { own } of models) {
        if (own.slots === 0 && own.kvBytes === 0 && own.prefillTokens === 0) continue
        fail('books', `${facts.deviceId} seems in use at the end: ${JSON.stringify(own)}`, facts.deviceId)
      }
    }
  }

  /** A call found nobody, and the core took notice. */
  #suspects(event: CoordinatorEvent, actions: readonly CoordinatorAction[]): void {
    if (event.type !== 'call-failed' || event.fault !== 'unreachable') return
    const open = this.#live.get(event.requestId)?.open
    const isNoticed = actions.some((action) => {
      return action.type === 'abandon' && action.requestId === event.requestId && action.epoch === event.epoch
    })
    if (open?.number !== event.epoch || !isNoticed) return
    const { prefill, decode } = open.decision
    const found = [decode, prefill].find(({ deviceId }) => deviceId === event.deviceId)
    if (found) this.#hearing.foundNobody(found)
  }

  #submitted(event: Extract<CoordinatorEvent, { type: 'submit' }>, nowMs: number): void {
    const { requestId, maxTokens } = event
    if (this.#live.has(requestId) || this.#ended.has(requestId)) return
    const { outputTokens } = this.#ledger.request(requestId)
    this.#live.set(requestId, {
      ...{ requestId, submittedMs: nowMs, maxTokens, outputTokens, emitted: 0, epochs: 0 },
      open: undefined,
      queuedSinceMs: nowMs,
    })
  }

  #take(event: CoordinatorEvent, action: CoordinatorAction, isOfOpen: boolean, nowMs: number): void {
    switch (action.type) {
      case 'reserve':
        this.#reserves(action, nowMs)
        break
      case 'run':
        this.#runs(event, action)
        break
      case 'emit':
        this.#emits(event, action, isOfOpen)
        break
      case 'abandon':
        this.#abandons(action, nowMs)
        break
      case 'finish':
        this.#finishes(event, action, isOfOpen, nowMs)
        break
      case 'requeue':
        this.#alive(action).queuedSinceMs = nowMs
        break
      case 'fail':
      case 'cancelled': {
        const { open, requestId } = this.#alive(action)
        if (open)
          fail('I4', `${requestId} ends (${action.type}) without giving up epoch ${open.number}`, requestId)
        this.#end(requestId)
        break
      }
      default:
    }
  }

  #reserves({ requestId, epoch, decision }: Action<'reserve'>, nowMs: number): void {
    const live = this.#alive({ requestId, type: 'reserve' })
    if (live.open)
      fail('books', `${requestId} reserves for epoch ${epoch} during epoch ${live.open.number}`, requestId)
    if (epoch <= live.epochs)
      fail('books', `${requestId} counts epoch ${epoch} after ${live.epochs}`, requestId)
    live.epochs = epoch
    live.open = { number: epoch, decision, isReserved: false }
    for (const device of [decision.prefill, decision.decode]) {
      this.#hearing.checkChosen(device, requestId, nowMs)
    }
  }

  #runs(event: CoordinatorEvent, { requestId, epoch, firstIndex, decode, prefill }: Action<'run'>): void {
    const live = this.#alive({ requestId, type: 'run' })
    const { open } = live
    const isAnswer = event.type === 'reserved' && event.requestId === requestId && event.epoch === epoch
    if (open?.number !== epoch || !isAnswer) {
      fail('I1', `${requestId} runs epoch ${epoch} without a reservation`, requestId)
    }
    if (open.isReserved) fail('books', `${requestId} runs epoch ${epoch} twice`, requestId)
    open.isReserved = true
    const { decision } = open
    const isDecided = isSame(decode, decision.decode) && (!prefill || isSame(prefill, decision.prefill))
    if (!isDecided) fail('books', `${requestId} runs elsewhere than it was decided`, requestId)
    if (firstIndex !== live.emitted) {
      fail(
        'I3',
        `${requestId} goes on from token ${firstIndex} after ${live.emitted} were emitted`,
        requestId,
      )
    }
  }

  #emits(event: CoordinatorEvent, { requestId, from, count }: Action<'emit'>, isOfOpen: boolean): void {
    const live = this.#alive({ requestId, type: 'emit' })
    if (!isOfOpen)
      fail(
        'I3',
        `${requestId} emits what ${eventText(event)} brought, which is not of the epoch in force`,
        requestId,
      )
    if (from !== live.emitted || count < 1) {
      fail(
        'I3',
        `${requestId} emits ${count} tokens from ${from} on, after ${live.emitted} were emitted`,
        requestId,
      )
    }
    live.emitted += count
    const most = Math.min(live.maxTokens, live.outputTokens, this.#ledger.sampledTokens(requestId))
    if (live.emitted > most) {
      fail('I3', `${requestId} has emitted ${live.emitted} tokens, and there are ${most}`, requestId)
    }
  }

  #abandons({ requestId, epoch }: Action<'abandon'>, nowMs: number): void {
    const live = this.#alive({ requestId, type: 'abandon' })
    if (live.open?.number !== epoch)
      fail('books', `${requestId} gives up epoch ${epoch}, which is not in force`, requestId)
    this.#close(live, nowMs)
  }

  #finishes(event: CoordinatorEvent, action: Action<'finish'>, isOfOpen: boolean, nowMs: number): void {
    const { requestId, reason } = action
    const live = this.#alive(action)
    const expected = Math.min(live.maxTokens, live.outputTokens)
    if (live.emitted !== expected) {
      fail('I3', `${requestId} finishes (${reason}) with ${live.emitted} of ${expected} tokens`, requestId)
    }
    if ('epoch' in event && event.requestId === requestId && !isOfOpen) {
      fail(
        'I3',
        `${requestId} finishes by ${eventText(event)}, which is not of the epoch in force`,
        requestId,
      )
    }
    this.#close(live, nowMs)
    this.#end(requestId)
  }

  #close(live: Live, nowMs: number): void {
    const { open, requestId } = live
    if (!open) return
    live.open = undefined
    live.queuedSinceMs = nowMs
    this.#epochEnded({ requestId, epoch: open.number, decision: open.decision, atMs: nowMs })
  }

  #end(requestId: string): void {
    this.#live.delete(requestId)
    this.#ended.add(requestId)
  }

  #alive({ requestId, type }: { readonly requestId: string; readonly type: string }): Live {
    const live = this.#live.get(requestId)
    if (live) return live
    const why = this.#ended.has(requestId) ? 'has ended' : 'was never asked for'
    return fail(type === 'emit' ? 'I3' : 'books', `${requestId} ${why}, and the core says ${type}`, requestId)
  }

  #checkTick(nowMs: number): void {
    const { requestDeadlineMs, placementDeadlineMs } = this.#limits
    for (const { requestId, submittedMs, open, queuedSinceMs } of this.#live.values()) {
      if (nowMs > submittedMs + requestDeadlineMs + SLACK_MS) {
        fail(
          'I2',
          `${requestId} lives for ${Math.round(nowMs - submittedMs)} ms; it may take ${requestDeadlineMs} ms`,
          requestId,
        )
      }
      if (!open && nowMs > queuedSinceMs + placementDeadlineMs + SLACK_MS) {
        fail(
          'I2',
          `${requestId} waits for ${Math.round(nowMs - queuedSinceMs)} ms; it may wait ${placementDeadlineMs} ms`,
          requestId,
        )
      }
    }
    this.#checkCounts()
    this.#checkShares()
  }

  /** Requests that wait, those that came back among them. */
  #waiting(): string[] {
    const waiting: string[] = []
    for (const { open, requestId } of this.#live.values()) {
      if (!open) waiting.push(requestId)
    }
    return waiting
  }

  /** One that lost its device comes back, whether or not there is room; one that is new is not let in beyond it. */
  #checkBound(waitedBefore: number): void {
    const waiting = this.#waiting()
    const most = Math.max(this.#limits.queuedMax, waitedBefore)
    if (waiting.length > most) fail('I2', `${waiting.length} requests wait; at most ${most} may`, ...waiting)
    this.#checkCounts()
  }

  #checkCounts(): void {
    let queued = 0
    for (const { open } of this.#live.values()) if (!open) queued += 1
    const active = this.#live.size - queued
    if (this.#core.queuedCount !== queued || this.#core.activeCount !== active) {
      fail(
        'books',
        `the core counts ${this.#core.queuedCount} waiting and ${this.#core.activeCount} active requests, and there are ${queued} and ${active}`,
      )
    }
  }

  /** What the view counts as taken by epochs is what epochs in force take. */
  #checkShares(): void {
    for (const { ref, models } of this.#core.view.devices()) {
      let slots = 0
      for (const { open } of this.#live.values()) if (open && isSame(open.decision.decode, ref)) slots += 1
      const counted = models.reduce((sum, { own }) => sum + own.slots, 0)
      const isNegative = models.some(({ own }) => own.kvBytes < 0 || own.prefillTokens < 0)
      if (counted !== slots || isNegative) {
        fail(
          'books',
          `the view counts ${counted} decode slots of ours on ${ref.deviceId}, and there are ${slots}`,
          ref.deviceId,
        )
      }
    }
  }
}

/** What an epoch says that is over changes nothing; room that it may have told of can place its request anew. */
function checkFenced(
  event: Extract<CoordinatorEvent, { epoch: number }>,
  actions: readonly CoordinatorAction[],
): void {
  const { requestId } = event
  for (const action of actions) {
    if (!('requestId' in action) || action.requestId !== requestId || action.type === 'reserve') continue
    fail('I3', `${requestId} does ${action.type} by ${eventText(event)}, which is not in force`, requestId)
  }
}

function isSame(a: DeviceRef, b: DeviceRef): boolean {
  return a.deviceId === b.deviceId && a.incarnation === b.incarnation
}

function eventText(event: CoordinatorEvent): string {
  return 'epoch' in event ? `${event.type} of epoch ${event.epoch}` : event.type
}

function fail(rule: 'I1' | 'I2' | 'I3' | 'I4' | 'books', what: string, ...about: readonly string[]): never {
  throw new Violation(rule, `${what}.`, about)
}
