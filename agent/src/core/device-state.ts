/**
 * Everything a device holds: sequences, their leases, their blocks; and the only two
 * ways in which any of it ends.
 *
 * Invariants:
 * S1 Only what has a lease has memory; a waiting sequence has neither (I1).
 * S2 Ending a sequence ends its lease, and each is reported once.
 * S3 The blocks of a running step are pinned until the step is over.
 */
import { BlockTable, type EvictedBlock } from './block-table.js'
import type { CoreOptions } from './core-options.js'
import type { CoreAction, EndReason, LeasePurpose, StepPart, TierTraffic } from './events.js'
import { LeastRecentlyUsed } from './eviction-policy.js'
import { LeaseTable } from './lease-table.js'
import { LeasedMemory } from './leased-memory.js'
import { PageHeat } from './page-heat.js'
import { StepCosts } from './step-costs.js'
import { TierCounters } from './tier-counters.js'

/**
 * waiting: no memory yet. fetching: the first part of the prompt comes from another device, the
 * rest is computed. prefilling: prompt partly computed. computed: prompt computed, its KV being
 * pulled. receiving: all KV comes from another device. offloading: prompt in place, the attending
 * device is not ready. decoding: one token a step. attending: answers for another device.
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
  counter: bigint | undefined
  phase: Phase
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

export class DeviceState {
  readonly leases: LeaseTable
  readonly memory: LeasedMemory
  readonly counters: TierCounters
  readonly heat = new PageHeat()
  readonly costs = new StepCosts()
  /** In order of arrival. */
  readonly sequences = new Map<number, Sequence>()
  readonly facts = new Map<bigint, LeaseFacts>()
  /** Rows of the running step, with the leases they pin. */
  running: readonly { readonly part: StepPart; readonly counter: bigint }[] | undefined
  draining = false
  /** Attention read pages since pages were last moved. */
  readSinceMove = false
  private stepCancelled = false
  private actions: CoreAction[] = []

  constructor(readonly options: CoreOptions) {
    const { deviceId, incarnation, leaseTtlMs: ttlMs, leaseCountersFrom: countersFrom = 0n, tiers } = options
    this.leases = new LeaseTable({ deviceId, incarnation, ttlMs, countersFrom })
    this.counters = new TierCounters(tiers)
    const table = new BlockTable(
      tiers.map(({ blocks }) => blocks),
      new LeastRecentlyUsed(),
      (blocks) => this.demote(blocks),
    )
    this.memory = new LeasedMemory(table)
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
    let used = 0
    for (const facts of this.facts.values()) if (facts.role === 'decode') used += 1
    return used
  }

  /** A lease over `tokens` tokens that shares what is stored of `owner.hashes`, or undefined where memory is short. */
  lease(owner: Omit<LeaseFacts, 'counter'>, tokens: number, nowMs: number): bigint | undefined {
    if (!this.memory.fits(tokens, owner.hashes)) return undefined
    const counter = this.leases.issue(nowMs)
    this.memory.grant(counter, tokens, owner.hashes)
    this.facts.set(counter, { counter, ...owner })
    if (owner.sequence !== undefined) this.leases.use(counter)
    const { table } = this.memory
    const shared = this.memory.blocks(counter).slice(0, this.memory.fullPages(counter))
    this.counters.looked(
      owner.hashes.length,
      shared.map((block) => table.tierOf(block)),
    )
    return counter
  }

  /** What a sequence's attention has caused so far: nothing. */
  noTraffic(): Sequence['traffic'] {
    return this.options.tiers.map(({ name }) => ({ tier: name, readBytes: 0, movedBytes: 0 }))
  }

  endSequence(sequence: Sequence, reason: EndReason): void {
    if (!this.sequences.delete(sequence.id)) return
    if (this.running?.some(({ part }) => part.sequence === sequence.id) === true)
      this.cancelStepIfOnlyPrefills()
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

  startStep(parts: readonly StepPart[]): void {
    this.stepCancelled = false
    this.running = parts.map((part) => {
      const counter = this.sequences.get(part.sequence)?.counter
      if (counter === undefined) throw new Error(`Sequence ${part.sequence} is in a step without a lease`)
      this.memory.pin(counter)
      return { part, counter }
    })
    this.emit({ type: 'run-step', parts, repeatable: 1 })
  }

  /** The parts of the step that is over. */
  finishStep(): readonly StepPart[] {
    const running = this.running
    if (running === undefined) throw new Error('A step finished but none was running')
    this.running = undefined
    for (const { counter } of running) this.memory.unpin(counter)
    return running.map(({ part }) => part)
  }

  private endLeaseAlone(counter: bigint): void {
    if (!this.leases.end(counter)) return
    this.facts.delete(counter)
    this.heat.forget(counter)
    this.memory.end(counter)
    this.emit({ type: 'lease-ended', counter })
  }

  /** A token somebody waits for is never thrown away; a long prompt chunk nobody needs is. */
  private cancelStepIfOnlyPrefills(): void {
    if (this.stepCancelled || this.running?.some(({ part }) => part.role === 'decode') === true) return
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
}
