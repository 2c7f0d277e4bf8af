/**
 * Stands around both cores of a virtual cluster: hears of every event and what it led to, checks the rules after each, and
 * brings about what only a core can be made to hear: calls that are made again, and events of epochs that are over.
 */
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import type { CoreAction, CoreEvent } from '@kvasir/agent/core/events'
import type { CoordinatorAction, CoordinatorEvent } from '@kvasir/coordinator/core/protocol'
import type { RequestLimits } from '@kvasir/coordinator/core/request-machine'
import type { RequestOutcome } from '../cluster/request.js'
import type { AnyAgentCore, AnyCoordinatorCore } from '../cluster/world.js'
import { AgentRules } from './agent-rules.js'
import type { CaseCounts } from './case-counts.js'
import { CoordinatorRules, type EndedEpoch } from './coordinator-rules.js'
import { checkDirectory } from './directory-rules.js'
import { disturbedUntilMs } from './disturbance.js'
import type { FaultCase } from './fault-case.js'
import type { History } from './history.js'
import type { MessageFaults } from './message-faults.js'
import { RequestLedger } from './request-ledger.js'
import { Violation } from './violation.js'

/** I4: what ended is free within a second where its device can be reached. */
const FREE_WITHIN_MS = 1_000
/** After the time to live, until the next report lets the agent's time pass. */
const REPORT_SLACK_MS = 1_100
const STALE_MAX = 32
const RELEASES_MAX = 32

type Release = Extract<CoreEvent, { type: 'release' }>

export class Checker {
  readonly #case: FaultCase
  readonly #faults: MessageFaults
  readonly #counts: CaseCounts
  readonly #history: History | undefined
  readonly #ledger: RequestLedger
  readonly #agents = new Map<string, AgentRules>()
  readonly #ownersOf = new Map<string, string>()
  #coordinator: CoordinatorRules | undefined
  #core: AnyCoordinatorCore | undefined
  #ending: (EndedEpoch & { dueMs: number })[] = []
  /** To be made again. */
  #releases: Release[] = []
  readonly #stale: Extract<CoordinatorEvent, { epoch: number }>[] = []

  constructor(faultCase: FaultCase, faults: MessageFaults, counts: CaseCounts, history: History | undefined) {
    this.#case = faultCase
    this.#faults = faults
    this.#counts = counts
    this.#history = history
    this.#ledger = new RequestLedger(faultCase.requests)
  }

  /** The coordinator's core as the cluster may use it. */
  coordinator(limits: RequestLimits, core: AnyCoordinatorCore): AnyCoordinatorCore {
    const rules = new CoordinatorRules(limits, core, this.#ledger, (epoch) => {
      this.#ending.push({ ...epoch, dueMs: epoch.atMs + FREE_WITHIN_MS })
    })
    this.#coordinator = rules
    this.#core = core
    const step = (event: CoordinatorEvent, nowMs: number): readonly CoordinatorAction[] => {
      const stale = event.type === 'tick' ? this.#deliverStale(rules, core, nowMs) : []
      this.#keepStale(rules, event, nowMs)
      const actions = this.#stepCoordinator(rules, core, event, nowMs)
      if (event.type === 'tick') this.#checkFreed(nowMs)
      return stale.length === 0 ? actions : [...stale, ...actions]
    }
    const { view, directory, follower } = core
    return {
      step,
      ...{ view, directory, follower },
      get queuedCount() {
        return core.queuedCount
      },
      get activeCount() {
        return core.activeCount
      },
    }
  }

  /** The core of a new life of a device. */
  agent(options: CoreOptions, core: AnyAgentCore): AnyAgentCore {
    const { deviceId } = options
    const rules = new AgentRules(options, core, this.#ledger)
    this.#agents.set(deviceId, rules)
    const step = (event: CoreEvent, nowMs: number): CoreAction[] => {
      const before = event.type === 'tick' ? this.#releaseAgain(rules, core, nowMs) : []
      const actions = [...before, ...this.#stepAgent(rules, core, event, nowMs)]
      if (event.type === 'release') this.#keepRelease(event)
      if (event.type !== 'reserve' || !this.#faults.isRepeated(deviceId, nowMs)) return actions
      // The first answer was lost, so that the client asked again.
      const again = this.#stepAgent(rules, core, event, nowMs)
      return [...withoutAnswers(actions), ...again]
    }
    return {
      step,
      load: () => core.load(),
      blocks: (counter) => core.blocks(counter),
      storedHashes: () => core.storedHashes(),
    }
  }

  died(deviceId: string): void {
    this.#agents.delete(deviceId)
  }

  ended({ request, end, tokens, code, placements, cachedTokens }: RequestOutcome): void {
    const counts = this.#counts
    counts.requests += 1
    if (end === 'finished') counts.finished += 1
    else if (end === 'cancelled') counts.cancelled += 1
    else counts.failed += 1
    if (placements > 1 && tokens > 0 && end === 'finished') counts.recovered += 1
    if (cachedTokens > 0) counts.reused += 1
    const { requestId, outputTokens, maxTokens = outputTokens } = request
    const expected = Math.min(outputTokens, maxTokens)
    if (end === 'finished' && tokens !== expected) {
      throw new Violation(
        'I3',
        `The client of ${requestId} has ${tokens} of ${expected} tokens at its end.`,
        [requestId],
      )
    }
    if (end !== 'finished' && request.arrivalMs >= this.#case.calmFromMs) {
      throw new Violation('calm', `${requestId} came when all faults were over, and ${end} (${code}).`, [
        requestId,
      ])
    }
  }

  /** Once nothing happens any more. */
  rest(nowMs: number): void {
    this.#checkFreed(nowMs)
    for (const agent of this.#agents.values()) agent.checkRest(nowMs)
    this.#coordinator?.checkRest()
    const stored = new Map(
      [...this.#agents].map(([deviceId, agent]) => [deviceId, agent.device.stored] as const),
    )
    const ids = this.#case.requests.map(({ requestId }) => requestId)
    if (this.#core) checkDirectory(this.#core, stored, ids, this.#ledger)
  }

  #keepRelease(event: Release): void {
    this.#releases.push(event)
    if (this.#releases.length > RELEASES_MAX) this.#releases.shift()
  }

  /** Calls that are made again reach whoever is at that address then: best a life that has issued such a lease too. */
  #releaseAgain(rules: AgentRules, core: AnyAgentCore, nowMs: number): CoreAction[] {
    const { deviceId, incarnation, lastCounter } = rules.device
    const again = this.#releases.filter(({ lease }) => {
      if (lease.deviceId !== deviceId) return false
      if (lease.incarnation === incarnation) return this.#faults.isRepeated(deviceId, nowMs)
      const isReached = this.#case.cluster.fixedAddresses && lease.counter <= lastCounter
      return isReached && this.#faults.isRepeatedLate(deviceId, nowMs)
    })
    if (again.length === 0) return []
    this.#releases = this.#releases.filter((event) => !again.includes(event))
    return again.flatMap((event) => withoutAnswers(this.#stepAgent(rules, core, event, nowMs)))
  }

  #stepCoordinator(
    rules: CoordinatorRules,
    core: AnyCoordinatorCore,
    event: CoordinatorEvent,
    nowMs: number,
  ): readonly CoordinatorAction[] {
    const counts = this.#counts
    counts.coreEvents += 1
    const actions = core.step(event, nowMs)
    for (const { type } of actions) {
      if (type === 'requeue') counts.replaced += 1
      else if (type === 'snapshot') counts.snapshots += 1
    }
    if (event.type === 'decode-finished' && event.reason === 'preempted') counts.preempted += 1
    this.#history?.coordinator(event, actions, nowMs)
    rules.on(event, actions, nowMs)
    return actions
  }

  #stepAgent(rules: AgentRules, core: AnyAgentCore, event: CoreEvent, nowMs: number): CoreAction[] {
    const counts = this.#counts
    counts.coreEvents += 1
    const { deviceId } = rules.device
    if (event.type === 'prefill' || event.type === 'decode') {
      this.#ownersOf.set(`${deviceId} ${event.sequence}`, `${event.requestId}.${event.epoch}`)
    }
    const actions = core.step(event, nowMs)
    for (const action of actions) {
      if (action.type === 'refused') counts.refused += 1
      else if (action.type === 'demote') counts.demotedBlocks += action.blocks.length
    }
    const names = (sequence: number) =>
      this.#ownersOf.get(`${deviceId} ${sequence}`) ?? `sequence ${sequence}`
    this.#history?.agent(deviceId, event, actions, nowMs, names)
    rules.on(event, actions, nowMs)
    return actions
  }

  /** I4: what an epoch held is free in time. */
  #checkFreed(nowMs: number): void {
    this.#ending = this.#ending.filter((ended) => {
      if (nowMs < ended.dueMs) return true
      const { requestId, epoch, decision, atMs } = ended
      for (const deviceId of new Set([decision.prefill.deviceId, decision.decode.deviceId])) {
        const held = this.#agents.get(deviceId)?.holds(requestId, epoch)
        if (held === undefined) continue
        const parties = ['coordinator', decision.prefill.deviceId, decision.decode.deviceId]
        const untilMs = disturbedUntilMs(this.#case.faults, parties, atMs, nowMs)
        const { leaseTtlMs } = this.#case.cluster
        const dueMs =
          untilMs === undefined ? ended.dueMs : Math.max(untilMs, held.sinceMs) + leaseTtlMs + REPORT_SLACK_MS
        if (dueMs > nowMs) {
          ended.dueMs = dueMs
          return true
        }
        const after = Math.round(nowMs - atMs)
        throw new Violation(
          'I4',
          `${deviceId} holds ${held.what} of ${requestId}.${epoch} ${after} ms after its end.`,
          [requestId, deviceId],
        )
      }
      return false
    })
  }

  #keepStale(rules: CoordinatorRules, event: CoordinatorEvent, nowMs: number): void {
    if (!('epoch' in event) || this.#stale.length >= STALE_MAX) return
    const isOpen = rules.openEpoch(event.requestId) === event.epoch
    if (isOpen && this.#faults.isStale(rules.decodesOn(event.requestId), nowMs)) this.#stale.push(event)
  }

  #deliverStale(rules: CoordinatorRules, core: AnyCoordinatorCore, nowMs: number): CoordinatorAction[] {
    const actions: CoordinatorAction[] = []
    for (const event of this.#stale.splice(0)) {
      const epoch = rules.openEpoch(event.requestId)
      // Best where another epoch could take it for its own.
      if (epoch === event.epoch || (epoch === undefined && rules.isAlive(event.requestId)))
        this.#stale.push(event)
      else actions.push(...this.#stepCoordinator(rules, core, event, nowMs))
    }
    return actions
  }
}

function withoutAnswers(actions: readonly CoreAction[]): CoreAction[] {
  return actions.filter(({ type }) => !ANSWERS.has(type))
}

const ANSWERS: ReadonlySet<CoreAction['type']> = new Set(['granted', 'refused', 'released'])
