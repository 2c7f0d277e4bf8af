/**
 * The coordinator in virtual time: its core, unchanged, and what its shell does around it: calls to agents, news from them,
 * ticks, clients.
 *
 * K1 Every request that was submitted gets exactly one outcome.
 * K2 After an epoch is over nothing of it is told to the core, and what was reserved for it is released, also where the
 *    reservation is granted only later.
 */
import { CoordinatorCore, TICK_MS } from '@kvasir/coordinator/core/coordinator-core'
import type { DeviceFacts, DeviceRef, LoadFacts } from '@kvasir/coordinator/core/facts'
import type { KvChange } from '@kvasir/coordinator/core/kv-follower'
import type { CoordinatorAction, CoordinatorEvent } from '@kvasir/coordinator/core/protocol'
import type { RequestLimits } from '@kvasir/coordinator/core/request-machine'
import { blockTexts, wordsOfBlocks } from './block-names.js'
import { LiveRequest } from './live-request.js'
import { Party } from './party.js'
import type { RequestOutcome, VirtualRequest } from './request.js'
import { VirtualEpoch } from './virtual-epoch.js'
import { modelNames } from './virtual-facts.js'
import type { AnyCoordinatorCore, CoordinatorParty, World } from './world.js'

/** As a coordinator has them by default. */
const LIMITS: RequestLimits = {
  protocolVersion: 1,
  protocolVersionMin: 1,
  queuedMax: 256,
  placementDeadlineMs: 10_000,
  requestDeadlineMs: 600_000,
}

export class VirtualCoordinator extends Party implements CoordinatorParty {
  readonly core: AnyCoordinatorCore
  readonly #world: World
  readonly #live = new Map<string, LiveRequest>()
  readonly #onOutcome: (outcome: RequestOutcome) => void
  #isBusUp = true

  constructor(world: World, onOutcome: (outcome: RequestOutcome) => void) {
    super('coordinator')
    this.#world = world
    this.#onOutcome = onOutcome
    const { limits, makeCoordinator } = world.options
    const all = { ...LIMITS, ...limits }
    this.core = makeCoordinator?.(all) ?? new CoordinatorCore(all)
  }

  /** Requests without an outcome. */
  get liveCount(): number {
    return this.#live.size
  }

  begin(): void {
    const tick = () => {
      this.#world.queue.after(TICK_MS, tick)
      this.step({ type: 'tick' })
    }
    tick()
  }

  submit(request: VirtualRequest): void {
    const { requestId, promptTokens, outputTokens, maxTokens = outputTokens } = request
    const { plan, queue } = this.#world
    this.#live.set(requestId, new LiveRequest(request, blockTexts(request.blocks)))
    const { tenant, priority, ttftDeadlineMs } = request
    this.step({
      type: 'submit',
      requestId,
      modelDigest: modelNames(plan).digest,
      profile: plan.profile,
      promptTokens,
      maxTokens,
      blockHashes: wordsOfBlocks(request.blocks),
      ...(tenant === undefined ? {} : { tenant }),
      ...(priority === undefined ? {} : { priority }),
      ...(ttftDeadlineMs === undefined ? {} : { ttftDeadlineMs }),
    })
    if (request.leavesAfterMs !== undefined) {
      queue.after(request.leavesAfterMs, () => {
        if (this.#live.has(requestId)) this.step({ type: 'cancel', requestId })
      })
    }
  }

  advertised(device: DeviceFacts): void {
    if (this.#isBusUp) this.step({ type: 'advertised', device })
  }

  reported(load: LoadFacts): void {
    if (this.#isBusUp) this.step({ type: 'load', load })
  }

  kvChanged(change: KvChange): void {
    if (this.#isBusUp) this.step({ type: 'kv', change })
  }

  /** Its own connection to the bus is up or down. */
  bus(isUp: boolean): void {
    if (this.#isBusUp === isUp) return
    this.#isBusUp = isUp
    this.step({ type: 'bus', connected: isUp })
  }

  step(event: CoordinatorEvent): void {
    const { queue, counters, options } = this.#world
    counters.coreEvents += 1
    const actions = this.core.step(event, queue.nowMs)
    options.probe?.coordinator?.(event, actions, queue.nowMs)
    for (const action of actions) this.#do(action)
  }

  /** What is still under way when a run is stopped. */
  outcomesOfUnfinished(): RequestOutcome[] {
    const { nowMs } = this.#world.queue
    return [...this.#live.values()].map((live) => live.outcome('unfinished', '', nowMs))
  }

  #do(action: CoordinatorAction): void {
    const { queue, options } = this.#world
    switch (action.type) {
      case 'check-health':
        this.#checkHealth(action.device, action.timeoutMs)
        return
      case 'snapshot':
        this.#snapshot(action.device, action.timeoutMs)
        return
      case 'reserve': {
        const live = this.#live.get(action.requestId)
        if (!live) return
        live.epoch?.stop()
        live.placed(action.decision)
        live.epoch = new VirtualEpoch(this.#world, this, live, action)
        return
      }
      case 'run': {
        const epoch = this.#live.get(action.requestId)?.epoch
        if (epoch?.number === action.epoch) epoch.run(action)
        return
      }
      case 'emit':
        options.probe?.emit?.(action.requestId, action.from, action.count, queue.nowMs)
        this.#live.get(action.requestId)?.emitted(action.count, queue.nowMs)
        return
      case 'abandon': {
        const live = this.#live.get(action.requestId)
        if (live?.epoch?.number !== action.epoch) return
        live.epoch.stop()
        live.epoch = undefined
        return
      }
      case 'finish': {
        const live = this.#live.get(action.requestId)
        const record = live?.epoch?.finish()
        this.#end(action.requestId, 'finished', '')
        if (record) this.step({ type: 'completed', record })
        return
      }
      case 'fail':
        this.#end(action.requestId, 'failed', action.code)
        return
      case 'cancelled':
        this.#end(action.requestId, 'cancelled', '')
        return
      case 'requeue':
      case 'forget-device':
    }
  }

  #end(requestId: string, end: RequestOutcome['end'], code: string): void {
    const live = this.#live.get(requestId)
    if (!live) return
    this.#live.delete(requestId)
    live.epoch?.stop()
    this.#onOutcome(live.outcome(end, code, this.#world.queue.nowMs))
  }

  #checkHealth(device: DeviceRef, timeoutMs: number): void {
    const { network, queue } = this.#world
    let isAnswered = false
    const answer = (ok: boolean) => {
      if (isAnswered) return
      isAnswered = true
      this.step({ type: 'health', device, ok })
    }
    const target = this.#world.device(device.deviceId)
    const isOfLife = target?.ref.incarnation === device.incarnation
    if (!target) {
      queue.after(timeoutMs, () => answer(false))
      return
    }
    const asked = network.call(
      this,
      target,
      'health',
      (call) => network.answer(call, 'healthy', () => answer(isOfLife), true),
      { broken: () => answer(false) },
    )
    queue.after(timeoutMs, () => {
      if (isAnswered) return
      network.cancel(asked)
      answer(false)
    })
  }

  #snapshot(device: DeviceRef, timeoutMs: number): void {
    const { network, queue, plan } = this.#world
    let isAnswered = false
    const answer = (snapshot: Extract<CoordinatorEvent, { type: 'kv-snapshot' }>['snapshot']) => {
      if (isAnswered) return
      isAnswered = true
      this.step({ type: 'kv-snapshot', device, snapshot })
    }
    const target = this.#world.device(device.deviceId)
    if (target?.ref.incarnation !== device.incarnation) {
      queue.after(2 * plan.messageMs, () => answer(null))
      return
    }
    const asked = network.call(
      this,
      target,
      'snapshot',
      (call) => {
        const { variant } = modelNames(plan)
        const snapshot = {
          sequence: target.news.kvSequence,
          groups: [{ variant, hashes: target.snapshotHashes() }],
        }
        network.answer(call, 'snapshot', () => answer(snapshot), true)
      },
      { broken: () => answer(null) },
    )
    queue.after(timeoutMs, () => {
      if (isAnswered) return
      network.cancel(asked)
      answer(null)
    })
  }
}
