/**
 * Everything a device holds: sequences, their leases, their blocks; and the only two
 * ways in which any of it ends.
 *
 * Invariants:
 * S1 Only what has a lease has memory; a waiting sequence has neither (I1).
 * S2 Ending a sequence ends its lease, and each is reported once.
 * S3 The blocks of a running step are pinned until the step is over.
 */
import { Arrivals } from './arrivals.js'
import { BLOCK_TOKENS, blocksForTokens, fullBlocks } from './block-allocator.js'
import { BlockTable, type EvictedBlock } from './block-table.js'
import type { CoreOptions } from './core-options.js'
import type { CoreAction, EndReason, LeasePurpose, StepPart, TierTraffic } from './events.js'
import { HeldByRequest } from './held-by-request.js'
import type { Holding } from './holding.js'
import { LeaseTable } from './lease-table.js'
import { LeasedMemory } from './leased-memory.js'
import { LeastRecentBlocks } from './least-recent-blocks.js'
import { PageHeat } from './page-heat.js'
import type { Repeatable } from './repeatable-steps.js'
import { StepCosts } from './step-costs.js'
import { TierCounters } from './tier-counters.js'

/**
 * waiting: no memory yet. fetching: the first part of the prompt comes from another device, the
 * rest is computed. prefilling: prompt partly computed. computed: prompt computed, its KV being
 * pulled. receiving: all KV comes from another device. offloading: prompt in place, the attending
 * device is not ready. decoding: one token a step. attending: answers for another device. ended: is
 * here no more.
 */
export type Phase =
  | 'waiting'
  | 'fetching'
  | 'prefilling'
  | 'computed'
  | 'receiving'
  | 'offloading'
  | 'decoding'
  | 'attending'
  | 'ended'

/** prefill: computes a prompt for another device. decode: generates, wherever its KV comes from. attend: pages of a sequence decoded elsewhere. */
export type Role = 'prefill' | LeasePurpose

export interface Sequence {
  readonly id: number
  readonly role: Role
  readonly requestId: string
  readonly epoch: number
  readonly promptTokens: number
  /** Of its full blocks; [] where nothing is reused. */
  readonly hashes: readonly string[]
  /** Leading tokens that can be fetched. */
  readonly fetchTokens: number
  /** Most tokens that its blocks will ever hold. */
  readonly roomTokensMax: number
  /** Tokens to sample here at most. */
  readonly sampleTokensMax: number
  readonly offload: { readonly pages: number; readonly mode: 'partial' | 'indices' } | undefined
  /** The attending device is ready; true where there is none. */
  offloaded: boolean
  /** Of its lease, and what that holds. */
  counter: bigint | undefined
  holding: Holding | undefined
  /** Changed by `DeviceState.enter` alone. */
  readonly phase: Phase
  /** Tokens whose KV is in the blocks. */
  computedTokens: number
  /** Tokens sampled in this placement, the first one included. */
  sampledTokens: number
  /** One of each tier. */
  readonly traffic: { -readonly [Name in keyof TierTraffic]: TierTraffic[Name] }[]
}

export interface LeaseFacts {
  readonly counter: bigint
  readonly role: Role
  readonly requestId: string
  readonly epoch: number
  /** Of the prompt it was reserved for. */
  readonly hashes: readonly string[]
  /** The sequence that uses it; undefined between Reserve and its first use. */
  sequence: number | undefined
}

/** Rows of a step, and of each its sequence. */
export interface RunningStep {
  readonly parts: readonly StepPart[]
  readonly sequences: readonly Leased[]
}

/** A sequence with memory. */
export type Leased = Sequence & { counter: bigint; holding: Holding }

/** Phases whose sequences are looked for. */
type ListedPhase = 'waiting' | 'fetching' | 'prefilling' | 'decoding'

export class DeviceState {
  readonly leases: LeaseTable
  readonly memory: LeasedMemory
  readonly counters: TierCounters
  readonly heat = new PageHeat()
  readonly costs: StepCosts
  readonly blockTokens: number
  /** In order of arrival. */
  readonly sequences = new Map<number, Sequence>()
  readonly inPhase: Readonly<Record<ListedPhase, Arrivals<Sequence>>> = {
    waiting: new Arrivals(),
    fetching: new Arrivals(),
    prefilling: new Arrivals(),
    decoding: new Arrivals(),
  }
  readonly facts = new Map<bigint, LeaseFacts>()
  readonly sequencesOf = new HeldByRequest<Sequence>()
  readonly leasesOf = new HeldByRequest<LeaseFacts>()
  running: RunningStep | undefined
  /** Of the running step, as was said. */
  repeatable: Repeatable = { steps: 0, rowsChanged: 0, freeBlocks: 0 }
  /** Rises when other sequences decode or prefill than before. */
  rowsChanged = 0
  /** Who waits first and found no room, and what BlockTable.roomGained was then. */
  refused: { readonly sequence: Sequence; readonly roomGained: number } | undefined
  draining = false
  /** Attention read pages since pages were last moved. */
  readSinceMove = false
  private decodeLeases = 0
  private stepCancelled = false
  private actions: CoreAction[] = []

  constructor(readonly options: CoreOptions) {
    const { deviceId, incarnation, leaseTtlMs: ttlMs, leaseCountersFrom: countersFrom = 0n, tiers } = options
    this.leases = new LeaseTable({ deviceId, incarnation, ttlMs, countersFrom })
    this.counters = new TierCounters(tiers)
    this.blockTokens = options.blockTokens ?? BLOCK_TOKENS
    this.costs = new StepCosts(this.blockTokens)
    const tierBlocks = tiers.map(({ blocks }) => blocks)
    const capacityBlocks = tierBlocks.reduce((sum, blocks) => sum + blocks, 0)
    const table = new BlockTable(tierBlocks, new LeastRecentBlocks(capacityBlocks), (blocks) =>
      this.demote(blocks),
    )
    this.memory = new LeasedMemory(table, this.blockTokens)
  }

  /** Whole blocks that hold `tokens` tokens. */
  blocksFor(tokens: number): number {
    return blocksForTokens(tokens, this.blockTokens)
  }

  /** Full blocks among `tokens` tokens. */
  fullBlocks(tokens: number): number {
    return fullBlocks(tokens, this.blockTokens)
  }

  emit(action: CoreAction): void {
    this.actions.push(action)
  }

  takeActions(): CoreAction[] {
    const changes = this.memory.table.takeChanges()
    if (changes !== undefined) this.emit({ type: 'kv-changed', ...changes })
    const actions = this.actions
    this.actions = []
    return actions
  }

  /** Alive decode leases, used or reserved. */
  get decodeSlotsUsed(): number {
    return this.decodeLeases
  }

  /** A sequence is taken in. */
  add(sequence: Sequence): void {
    this.sequences.set(sequence.id, sequence)
    this.sequencesOf.add(sequence)
    this.listOf(sequence.phase)?.add(sequence)
  }

  enter(sequence: Sequence, phase: Phase): void {
    const entering: { phase: Phase } = sequence
    if (makesRows(sequence.phase) || makesRows(phase)) this.rowsChanged += 1
    this.listOf(sequence.phase)?.remove(sequence)
    entering.phase = phase
    this.listOf(phase)?.add(sequence)
  }

  /** A lease over `tokens` tokens that shares what is stored of `owner.hashes`, or undefined where memory is short. */
  lease(owner: Omit<LeaseFacts, 'counter'>, tokens: number, nowMs: number): bigint | undefined {
    const holding = this.memory.claim(tokens, owner.hashes)
    if (holding === undefined) return undefined
    const counter = this.leases.issue(nowMs)
    this.memory.assign(counter, holding)
    const facts = { counter, ...owner }
    this.facts.set(counter, facts)
    this.leasesOf.add(facts)
    if (owner.role === 'decode') this.decodeLeases += 1
    if (owner.sequence !== undefined) this.leases.use(counter)
    this.counters.looked(owner.hashes.length, holding.tiersBefore(holding.full, this.memory.table))
    return counter
  }

  /** The lease is the sequence's from now on. */
  attach(sequence: Sequence, counter: bigint): void {
    sequence.counter = counter
    sequence.holding = this.memory.holding(counter)
  }

  /** What a sequence's attention has caused so far: nothing. */
  noTraffic(): Sequence['traffic'] {
    return this.options.tiers.map(({ name }) => ({ tier: name, readBytes: 0, movedBytes: 0 }))
  }

  endSequence(sequence: Sequence, reason: EndReason): void {
    if (!this.sequences.delete(sequence.id)) return
    this.sequencesOf.remove(sequence)
    this.enter(sequence, 'ended')
    if (this.running?.sequences.some((other) => other === sequence) === true) this.cancelStepIfOnlyPrefills()
    if (sequence.counter !== undefined) this.endLeaseAlone(sequence.counter)
    this.emit({ type: 'sequence-ended', sequence: sequence.id, reason, reads: sequence.traffic })
  }

  /** Ends a lease and, where one uses it, its sequence. */
  endLease(counter: bigint, reason: EndReason): void {
    const id = this.facts.get(counter)?.sequence
    const sequence = id === undefined ? undefined : this.sequences.get(id)
    if (sequence === undefined) this.endLeaseAlone(counter)
    else this.endSequence(sequence, reason)
  }

  startStep(step: RunningStep): void {
    this.stepCancelled = false
    this.running = step
    for (const { holding } of step.sequences) holding.pins += 1
  }

  /** The step that is over. */
  finishStep(): RunningStep {
    const { running } = this
    if (running === undefined) throw new Error('A step finished but none was running')
    this.running = undefined
    for (const { counter, holding } of running.sequences) this.memory.letGo(counter, holding)
    return running
  }

  private endLeaseAlone(counter: bigint): void {
    if (!this.leases.end(counter)) return
    const facts = this.facts.get(counter)
    if (facts !== undefined) {
      this.facts.delete(counter)
      this.leasesOf.remove(facts)
      if (facts.role === 'decode') this.decodeLeases -= 1
    }
    this.heat.forget(counter)
    this.memory.end(counter)
    this.emit({ type: 'lease-ended', counter })
  }

  /** A token somebody waits for is never thrown away; a long prompt chunk nobody needs is. */
  private cancelStepIfOnlyPrefills(): void {
    if (this.stepCancelled || this.running?.parts.some(({ role }) => role === 'decode') === true) return
    this.stepCancelled = true
    this.emit({ type: 'cancel-step' })
  }

  /** Gives up all cached blocks that nobody touches; returns how many. */
  evictAll(drop: boolean): number {
    const gone = this.memory.table.evictAll()
    if (!drop) this.demote(gone)
    else for (const { block } of gone) this.counters.add(this.memory.table.tierOf(block), 'droppedBlocks', 1)
    return gone.length
  }

  private demote(blocks: readonly EvictedBlock[]): void {
    if (blocks.length === 0) return
    const { tiers } = this.options
    const leaving = blocks.map(({ hash, block }) => {
      const tier = this.memory.table.tierOf(block)
      this.counters.add(tier, 'outBlocks', 1)
      return { hash, block, tier: tiers[tier]?.name ?? '' }
    })
    this.emit({ type: 'demote', blocks: leaving })
  }

  private listOf(phase: Phase): Arrivals<Sequence> | undefined {
    switch (phase) {
      case 'waiting':
      case 'fetching':
      case 'prefilling':
      case 'decoding':
        return this.inPhase[phase]
      default:
        return undefined
    }
  }
}

function makesRows(phase: Phase): boolean {
  return phase === 'decoding' || phase === 'prefilling'
}
