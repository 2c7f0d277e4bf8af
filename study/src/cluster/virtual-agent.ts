/**
 * One life of a device agent in virtual time: the agent's core, unchanged, and what its shell does around it. A step takes
 * as long as the catalogue says of the device (device-steps.ts).
 *
 * A1 The core's actions are carried out in its order; what concerns the device comes before what others hear.
 */
import { AgentCore } from '@kvasir/agent/core/agent-core'
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import type { CoreAction, CoreEvent, EndReason, Refusal } from '@kvasir/agent/core/events'
import type { LeaseReference } from '@kvasir/agent/core/lease-table'
import { SHARED_BOUNDS } from '@kvasir/agent/core/shared-bounds'
import type { BlockHashes } from '@kvasir/coordinator/core/block-hashes'
import type { DeviceFacts, DeviceRef, LoadFacts } from '@kvasir/coordinator/core/facts'
import { wordsOfTexts } from './block-names.js'
import type { PlannedDevice } from './cluster-plan.js'
import type { DeviceMeter } from './device-meter.js'
import { DeviceNews } from './device-news.js'
import { DeviceSteps } from './device-steps.js'
import type { OutgoingKv } from './outgoing-kv.js'
import { Party } from './party.js'
import type { SharedLink } from './shared-links.js'
import { VirtualDemotion } from './virtual-demotion.js'
import { deviceFacts, loadFacts, tierBlocks } from './virtual-facts.js'
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

const ROWS_MAX = 1 << 20

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
  readonly news: DeviceNews
  readonly #steps: DeviceSteps
  readonly #demotion: VirtualDemotion
  #lastSequence = 0

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
    this.news = new DeviceNews(world, this, (sequence) => this.#loadNow(sequence))
    this.uplinks = [links.up]
    this.downlinks = [links.down]
    this.latencyMs = planned.link.latencyUs / 1_000
    const blocks = tierBlocks(planned.model, plan.blockTokens)
    const coreOptions: CoreOptions = {
      deviceId: this.id,
      incarnation,
      leaseTtlMs: options.agentLimits?.leaseTtlMs ?? SHARED_BOUNDS.leaseTtlMs,
      tiers: planned.model.kvMemories.map(({ name, bytesPerSecond }, index) => {
        return { name, blocks: blocks[index] ?? 0, bytesPerSecond }
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
    this.#steps = new DeviceSteps(this, {
      tierBlocks: blocks,
      blockTokens: plan.blockTokens,
      kvBytesPerToken: planned.model.kvBytesPerToken,
    })
  }

  get blockBytes(): number {
    return this.planned.model.kvBytesPerToken * this.world.plan.blockTokens
  }

  /** Tells the coordinator of itself, and from now on reports. `firstReportMs`: from now. */
  begin(firstReportMs: number): void {
    this.news.begin(firstReportMs)
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
    this.#steps.catchUp()
    return this.#perform(this.step(event, this.world.queue.nowMs))
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
    return this.#steps.isBusy
  }

  /** Ends what is over by now of a run of steps, so that what is read of the core is up to date. */
  catchUp(): void {
    this.#steps.catchUp()
  }

  /** Something befalls it or its connections: what it has done by now is out. */
  settle(): void {
    this.#steps.catchUp()
    for (const work of this.works.values()) work.sayTokens?.()
  }

  #loadNow(sequence: number): LoadFacts {
    // Leases that nobody used end by themselves, with the time that passes.
    this.apply({ type: 'tick' })
    const { blockBytes } = this
    return loadFacts(this.facts, this.core.load(), { sequence, kvSequence: this.news.kvSequence, blockBytes })
  }

  /** Tells the core; what it answers is for the caller to carry out. */
  step(event: CoreEvent, nowMs: number): readonly CoreAction[] {
    const { counters, options } = this.world
    counters.coreEvents += 1
    const actions = this.core.step(event, nowMs)
    options.probe?.agent?.(this.id, this.incarnation, event, actions, nowMs)
    return actions
  }

  #perform(actions: readonly CoreAction[], atMs = this.world.queue.nowMs): Answer | Refusal | undefined {
    for (const action of actions) this.performFirst(action, atMs)
    return this.performRest(actions)
  }

  /** What concerns the device and its blocks. */
  performFirst(action: CoreAction, atMs: number): void {
    switch (action.type) {
      case 'run-step':
        this.#steps.run(action.parts, action.repeatable, atMs)
        break
      case 'repeat-less':
        this.#steps.runLess(action.repeatable)
        break
      case 'cancel-step':
        this.#steps.cancel()
        break
      case 'copy':
        this.#steps.moved(action.from.length * this.blockBytes)
        break
      case 'demote':
        this.#demotion.demote(action.blocks.map(({ hash }) => hash))
        break
      case 'kv-changed':
        this.news.kvChanged(action.stored, action.removed)
    }
  }

  /** What concerns sequences and whoever asked. */
  performRest(actions: readonly CoreAction[]): Answer | Refusal | undefined {
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
}
