/**
 * One life of a device agent in virtual time: the agent's core, unchanged, and what its shell does around it. A step takes
 * as long as the catalogue says of the device.
 *
 * A1 The core's actions are carried out in its order; the next step begins before anybody hears of the last one, as in
 *    the real agent.
 * A2 Steps that only decode, `repeatable` of them, run as one event. Whatever happens to the agent meanwhile first ends the
 *    steps that are over by then, so nobody can tell but by counting events.
 */
import { AgentCore } from '@kvasir/agent/core/agent-core'
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import type { CoreAction, CoreEvent, EndReason, Refusal, StepPart } from '@kvasir/agent/core/events'
import type { LeaseReference } from '@kvasir/agent/core/lease-table'
import { SHARED_BOUNDS } from '@kvasir/agent/core/shared-bounds'
import { type DeviceTimes, deviceTimes } from '@kvasir/catalogue/device-times'
import type { BlockHashes } from '@kvasir/coordinator/core/block-hashes'
import type { DeviceFacts, DeviceRef } from '@kvasir/coordinator/core/facts'
import { wordsOfTexts } from './block-names.js'
import type { PlannedDevice } from './cluster-plan.js'
import type { DeviceMeter } from './device-meter.js'
import type { OutgoingKv } from './outgoing-kv.js'
import { Party } from './party.js'
import type { SharedLink } from './shared-links.js'
import { type KvMemory, runMs, type StepRun, stepRun, stepsIn } from './step-run.js'
import { VirtualDemotion } from './virtual-demotion.js'
import { deviceFacts, loadFacts, modelNames, tierBlocks } from './virtual-facts.js'
import type { VirtualHost } from './virtual-host.js'
import { type AnyAgentCore, type KvSource, type Lent, NOTHING_LENT, type World } from './world.js'

/** Who owns a sequence of the core. */
export interface SequenceWork {
  /** Tokens until one is a stop token, that one included; Infinity where length ends it. */
  readonly samplesLeft: number
  admitted?(counter: bigint, cachedTokens: number): void
  /** A step computes a chunk of its prompt. */
  chunkStarts?(start: number, count: number, startMs: number, ms: number): void
  /** `shareMs`: of the step's time, what the chunk answers for; 0 where it is computed again. */
  chunkEnds?(computedTokens: number, isCancelled: boolean, shareMs: number): void
  sampled(count: number, batch: number, stepMs: number): void
  /** Hands out tokens that it holds. */
  sayTokens?(): void
  ended(reason: EndReason): void
}

export type Answer = Extract<CoreAction, { type: 'granted' | 'released' | 'attached' | 'lent' | 'evicted' }>

const REPORT_MS = 500
const ROWS_MAX = 1 << 20
const NO_SHARES: readonly number[] = []

export class VirtualAgent extends Party implements KvSource {
  readonly core: AnyAgentCore
  readonly facts: DeviceFacts
  readonly ref: DeviceRef
  readonly works = new Map<number, SequenceWork>()
  /** Prompts of which this device has the KV, by request and epoch. */
  readonly transfers = new Map<string, OutgoingKv>()
  readonly uplinks: readonly SharedLink[]
  readonly downlinks: readonly SharedLink[]
  readonly latencyMs: number
  kvSequence = 0
  readonly #times: DeviceTimes
  readonly #memory: KvMemory
  readonly #demotion: VirtualDemotion
  #running: StepRun | undefined
  #lastSequence = 0
  #reports = 0
  /** Bytes that moved between tiers since the last step, which that step pays for. */
  #movedBytes = 0

  constructor(
    readonly world: World,
    readonly planned: PlannedDevice,
    readonly machine: string,
    readonly incarnation: bigint,
    readonly meter: DeviceMeter,
    host: () => VirtualHost | undefined,
    links: { readonly up: SharedLink; readonly down: SharedLink },
  ) {
    super(planned.deviceId)
    this.#demotion = new VirtualDemotion(this, host)
    const { plan, options } = world
    this.facts = deviceFacts(plan, planned, String(incarnation))
    this.ref = { deviceId: this.id, incarnation: String(incarnation) }
    this.uplinks = [links.up]
    this.downlinks = [links.down]
    this.latencyMs = planned.link.latencyUs / 1_000
    this.#times = deviceTimes(planned.model)
    this.#memory = {
      tierBlocks: tierBlocks(planned.model, plan.blockTokens),
      blockTokens: plan.blockTokens,
      kvBytesPerToken: planned.model.kvBytesPerToken,
    }
    const coreOptions: CoreOptions = {
      deviceId: this.id,
      incarnation,
      leaseTtlMs: options.agentLimits?.leaseTtlMs ?? SHARED_BOUNDS.leaseTtlMs,
      tiers: planned.model.kvMemories.map(({ name, bytesPerSecond }, index) => {
        return { name, blocks: this.#memory.tierBlocks[index] ?? 0, bytesPerSecond }
      }),
      blockBytes: this.blockBytes,
      blockTokens: plan.blockTokens,
      tierPolicy: planned.tierPolicy,
      decodeSlots: planned.decodeSlots,
      decodesAtOnce: planned.decodesAtOnce,
      waitingMax: options.agentLimits?.waitingMax ?? SHARED_BOUNDS.waitingMax,
      contextTokensMax: plan.model.contextTokensMax,
      limits: {
        rowsMax: ROWS_MAX,
        chunkTokens: planned.chunkTokens,
        sharedChunkTokens: planned.sharedChunkTokens,
        ...(planned.sharedStepStretch === undefined ? {} : { sharedStepStretch: planned.sharedStepStretch }),
      },
    }
    this.core = options.makeAgent?.(coreOptions) ?? new AgentCore(coreOptions)
  }

  get blockBytes(): number {
    return this.planned.model.kvBytesPerToken * this.world.plan.blockTokens
  }

  /** Tells the coordinator of itself, and from now on reports. `firstReportMs`: from now. */
  begin(firstReportMs: number): void {
    const { network, queue } = this.world
    const coordinator = this.world.coordinator()
    network.publish(this, coordinator, 'advertised', () => coordinator.advertised(this.facts))
    queue.after(firstReportMs, () => this.#report())
  }

  newSequence(): number {
    this.#lastSequence += 1
    return this.#lastSequence
  }

  lease(counter: bigint): LeaseReference {
    return { deviceId: this.id, incarnation: this.incarnation, counter }
  }

  /** Brings in a sequence; the core's refusal where it does not want it. */
  start(
    sequence: number,
    work: SequenceWork,
    event: Extract<CoreEvent, { type: 'prefill' | 'decode' }>,
  ): Answer | Refusal | undefined {
    this.works.set(sequence, work)
    const answer = this.apply(event)
    if (typeof answer === 'string') this.works.delete(sequence)
    return answer
  }

  /** The core's answer, or why it refuses. */
  apply(event: CoreEvent): Answer | Refusal | undefined {
    this.#catchUp()
    return this.#perform(this.#step(event, this.world.queue.nowMs))
  }

  /** What it holds, for the directory. */
  snapshotHashes(): BlockHashes {
    return wordsOfTexts(this.core.storedHashes())
  }

  lend(names: readonly string[]): Lent {
    const answer = this.apply({ type: 'lend', hashes: names })
    if (typeof answer === 'string' || answer?.type !== 'lent') return NOTHING_LENT
    return { loan: answer.loan, count: answer.blocks.length, through: [] }
  }

  giveBack(loan: number): void {
    if (loan !== 0 && !this.isDead) this.apply({ type: 'return', loan })
  }

  sent(bytes: number): void {
    this.meter.sentBytes += bytes
  }

  /** Whether a step runs. */
  get isBusy(): boolean {
    return this.#running !== undefined
  }

  /** Ends what is over by now of a run of steps, so that what is read of the core is up to date. */
  catchUp(): void {
    this.#catchUp()
  }

  /** Something befalls it or its connections: what it has done by now is out. */
  settle(): void {
    this.#catchUp()
    for (const work of this.works.values()) work.sayTokens?.()
  }

  #report(): void {
    const { network, queue } = this.world
    if (this.isDead) return
    queue.after(REPORT_MS, () => this.#report())
    if (this.stalledUntilMs > queue.nowMs) return
    // Leases that nobody used end by themselves, with the time that passes.
    this.apply({ type: 'tick' })
    this.#reports += 1
    const { kvSequence, blockBytes } = this
    const numbers = { sequence: this.#reports, kvSequence, blockBytes }
    const load = loadFacts(this.facts, this.core.load(), numbers)
    const coordinator = this.world.coordinator()
    network.publish(this, coordinator, 'load', () => coordinator.reported(load))
    // An advertisement is repeated, as the real agent does now and then.
    if (this.#reports % 8 === 0) {
      network.publish(this, coordinator, 'advertised', () => coordinator.advertised(this.facts))
    }
  }

  #step(event: CoreEvent, nowMs: number): readonly CoreAction[] {
    const { counters, options } = this.world
    counters.coreEvents += 1
    const actions = this.core.step(event, nowMs)
    options.probe?.agent?.(this.id, this.incarnation, event, actions, nowMs)
    return actions
  }

  #perform(actions: readonly CoreAction[], atMs = this.world.queue.nowMs): Answer | Refusal | undefined {
    for (const action of actions) this.#performFirst(action, atMs)
    return this.#performRest(actions)
  }

  /** What concerns the device and its blocks. */
  #performFirst(action: CoreAction, atMs: number): void {
    switch (action.type) {
      case 'run-step':
        this.#run(action.parts, action.repeatable, atMs)
        break
      case 'repeat-less':
        this.#runLess(action.repeatable)
        break
      case 'cancel-step':
        this.#cancelStep()
        break
      case 'copy':
        this.#movedBytes += action.from.length * this.blockBytes
        break
      case 'demote':
        this.#demotion.demote(action.blocks.map(({ hash }) => hash))
        break
      case 'kv-changed': {
        const { network } = this.world
        this.kvSequence += 1
        const coordinator = this.world.coordinator()
        const change = {
          ...this.ref,
          sequence: this.kvSequence,
          stored: wordsOfTexts(action.stored),
          removed: wordsOfTexts(action.removed),
          variant: modelNames(this.world.plan).variant,
          tier: this.facts.tiers[0]?.name ?? '',
        }
        network.publish(this, coordinator, 'kv', () => coordinator.kvChanged(change))
      }
    }
  }

  #performRest(actions: readonly CoreAction[]): Answer | Refusal | undefined {
    let answer: Answer | Refusal | undefined
    for (const action of actions) {
      switch (action.type) {
        case 'refused':
          answer = action.reason
          break
        case 'admitted':
          this.works.get(action.sequence)?.admitted?.(action.counter, action.cachedTokens)
          break
        case 'sequence-ended': {
          const work = this.works.get(action.sequence)
          this.works.delete(action.sequence)
          work?.ended(action.reason)
          break
        }
        case 'granted':
        case 'released':
        case 'attached':
        case 'lent':
        case 'evicted':
          answer = action
      }
    }
    return answer
  }

  #run(parts: readonly StepPart[], repeatable: number, startMs: number): void {
    let stepsMax = this.world.options.coalesce === false ? 1 : repeatable
    for (const { sequence } of parts) {
      stepsMax = Math.min(stepsMax, this.works.get(sequence)?.samplesLeft ?? 1)
    }
    const step = stepRun(
      parts,
      { startMs, stepsMax, movedBytes: this.#movedBytes },
      this.#times,
      this.#memory,
    )
    this.#movedBytes = 0
    this.#running = step
    for (const { role, sequence, start, count } of parts) {
      if (role === 'prefill') this.works.get(sequence)?.chunkStarts?.(start, count, startMs, step.firstMs)
    }
    this.world.queue.at(startMs + runMs(step, step.steps), () => this.#endsBy(step))
  }

  /** An event came by which later steps of the run would be others. */
  #runLess(steps: number): void {
    const step = this.#running
    if (step === undefined || step.steps <= steps) return
    const shorter = { ...step, steps }
    this.#running = shorter
    this.world.queue.at(step.startMs + runMs(shorter, steps), () => this.#endsBy(shorter))
  }

  /** Its time is over, unless it ended before. */
  #endsBy(step: StepRun): void {
    if (this.#running !== step || this.isDead) return
    const { stalledUntilMs } = this
    // The card computes on, but nobody hears of it.
    if (stalledUntilMs > this.world.queue.nowMs) this.world.queue.at(stalledUntilMs, () => this.#endsBy(step))
    else this.#end(step, step.steps, this.world.queue.nowMs)
  }

  /** Ends the steps of a run that are over by now. */
  #catchUp(): void {
    const step = this.#running
    if (step === undefined || step.steps === 1) return
    const elapsedMs = this.world.queue.nowMs - step.startMs
    const over = stepsIn(step, elapsedMs)
    if (over > 0) this.#end(step, over, step.startMs + runMs(step, over))
  }

  #end(step: StepRun, steps: number, atMs: number): void {
    const ms = runMs(step, steps)
    const { counters } = this.world
    counters.steps += steps
    // Of each step but the last: its end, and for every sequence the message with its token and what the coordinator makes of it.
    counters.eventsMerged += (steps - 1) * (1 + 2 * step.parts.length)
    const { prefillTokens, work } = step
    this.meter.ran({ steps, ms, prefillTokens, decodes: work.decodes.length }, this.#times.stepWatts(work))
    this.#running = undefined
    const stopped: number[] = []
    const shares = prefillTokens > 0 ? this.core.stepShares(step.parts) : NO_SHARES
    let place = 0
    for (const { sequence, role, start, count, wantLogits } of step.parts) {
      const share = shares[place] ?? 0
      place += 1
      // Before the next chunk begins.
      if (role === 'prefill') this.works.get(sequence)?.chunkEnds?.(start + count, false, ms * share)
      const work = this.works.get(sequence)
      if (wantLogits && work !== undefined && work.samplesLeft <= steps) stopped.push(sequence)
    }
    const actions = this.#step(
      {
        type: 'step-finished',
        cancelled: false,
        stopped,
        failed: [],
        filled: [],
        reads: [],
        elapsedUs: (ms / steps) * 1_000,
        steps,
      },
      atMs,
    )
    for (const action of actions) this.#performFirst(action, atMs)
    const batch = step.parts.length
    for (const { sequence, wantLogits } of step.parts) {
      const work = this.works.get(sequence)
      if (wantLogits) work?.sampled(steps, batch, ms / steps)
    }
    this.#performRest(actions)
  }

  /** Between two layers the device looks whether its step is still wanted. */
  #cancelStep(): void {
    const step = this.#running
    if (step === undefined) return
    const { queue, plan } = this.world
    const layerMs = step.firstMs / plan.model.layers
    queue.after(layerMs, () => {
      if (this.#running !== step || this.isDead) return
      const ms = queue.nowMs - step.startMs
      this.meter.ran(
        { steps: 1, ms, prefillTokens: step.prefillTokens, decodes: 0 },
        this.#times.stepWatts(step.work),
      )
      this.#running = undefined
      for (const { sequence, role, start } of step.parts) {
        if (role === 'prefill') this.works.get(sequence)?.chunkEnds?.(start, true, 0)
      }
      const cancelled = {
        cancelled: true,
        stopped: [],
        failed: [],
        filled: [],
        reads: [],
        elapsedUs: ms * 1_000,
      }
      const actions = this.#step({ type: 'step-finished', ...cancelled }, queue.nowMs)
      for (const action of actions) this.#performFirst(action, queue.nowMs)
      this.#performRest(actions)
    })
  }
}
