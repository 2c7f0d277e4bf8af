/**
 * Everything a device holds: sequences, their leases, their blocks; and the only two
 * ways in which any of it ends.
 *
 * Invariants:
 * S1 Only what has a lease has memory; a waiting sequence has neither (I1).
 * S2 Ending a sequence ends its lease, and each is reported once.
 * S3 The blocks of a running step are pinned until the step is over.
 */
import type { CoreAction, EndReason, StepPart } from './events.js'
import { type LeaseIssuer, LeaseTable } from './lease-table.js'
import { LeasedMemory } from './leased-memory.js'

/**
 * waiting: no memory yet. prefilling: prompt partly computed. computed: prompt computed,
 * its KV being pulled. receiving: KV comes from another device. decoding: one token a step.
 */
export type Phase = 'waiting' | 'prefilling' | 'computed' | 'receiving' | 'decoding'

export interface Sequence {
  readonly id: number
  /** prefill: computes a prompt for another device. decode: generates, wherever its KV comes from. */
  readonly role: 'prefill' | 'decode'
  readonly requestId: string
  readonly epoch: number
  readonly promptTokens: number
  /** Index of the first token sampled here; 0 tokens for the prefill role. */
  readonly firstIndex: number
  /** Most tokens that its blocks will ever hold. */
  readonly roomTokensMax: number
  /** Tokens to sample here at most. */
  readonly sampleTokensMax: number
  counter: bigint | undefined
  phase: Phase
  /** Prompt tokens whose KV is in the blocks. */
  computedTokens: number
  /** Tokens sampled in this placement, the first one included. */
  sampledTokens: number
}

export interface LeaseFacts {
  readonly counter: bigint
  readonly role: 'prefill' | 'decode'
  readonly requestId: string
  readonly epoch: number
  /** The sequence that uses it; undefined between Reserve and Decode. */
  sequence: number | undefined
}

export class DeviceState {
  readonly leases: LeaseTable
  readonly memory: LeasedMemory
  /** In order of arrival. */
  readonly sequences = new Map<number, Sequence>()
  readonly facts = new Map<bigint, LeaseFacts>()
  /** Rows of the running step, with the leases they pin. */
  running: readonly { readonly part: StepPart; readonly counter: bigint }[] | undefined
  private stepCancelled = false
  private actions: CoreAction[] = []

  constructor(issuer: LeaseIssuer, capacityBlocks: number) {
    this.leases = new LeaseTable(issuer)
    this.memory = new LeasedMemory(capacityBlocks)
  }

  emit(action: CoreAction): void {
    this.actions.push(action)
  }

  takeActions(): CoreAction[] {
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

  /** A lease over `tokens` tokens, or undefined where memory is short. */
  lease(
    owner: { role: 'prefill' | 'decode'; requestId: string; epoch: number; sequence: number | undefined },
    tokens: number,
    nowMs: number,
  ): bigint | undefined {
    if (!this.memory.fits(tokens)) return undefined
    const counter = this.leases.issue(nowMs)
    this.memory.grant(counter, tokens)
    this.facts.set(counter, { counter, ...owner })
    if (owner.sequence !== undefined) this.leases.use(counter)
    return counter
  }

  endSequence(sequence: Sequence, reason: EndReason): void {
    if (!this.sequences.delete(sequence.id)) return
    if (this.running?.some(({ part }) => part.sequence === sequence.id) === true)
      this.cancelStepIfOnlyPrefills()
    if (sequence.counter !== undefined) this.endLeaseAlone(sequence.counter)
    this.emit({ type: 'sequence-ended', sequence: sequence.id, reason })
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
    this.emit({ type: 'run-step', parts })
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
    this.memory.end(counter)
    this.emit({ type: 'lease-ended', counter })
  }

  /** A token somebody waits for is never thrown away; a long prompt chunk nobody needs is. */
  private cancelStepIfOnlyPrefills(): void {
    if (this.stepCancelled || this.running?.some(({ part }) => part.role === 'decode') === true) return
    this.stepCancelled = true
    this.emit({ type: 'cancel-step' })
  }
}
