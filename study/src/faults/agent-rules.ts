/**
 * Checks one life of a device agent's core against a model of its own, event by event: what it was told and what it
 * answered is all that the model knows.
 *
 * What must hold: memory only under a living lease of this life, never more than there is, nothing granted twice (I1);
 * waiting and slots bounded (I2); a token computed over its own prefix, each once (I3); what ended holds nothing (I4); what
 * is reused is what it is named (I6); and the core's own counts.
 */
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import type { CoreAction, CoreEvent } from '@kvasir/agent/core/events'
import type { AnyAgentCore } from '../cluster/world.js'
import { type AgentAction, type AgentEvent, DeviceModel } from './device-model.js'
import { IntakeRules } from './intake-rules.js'
import type { RequestLedger } from './request-ledger.js'
import { StepRules } from './step-rules.js'

export class AgentRules {
  readonly #device: DeviceModel
  readonly #intake: IntakeRules
  readonly #steps: StepRules

  constructor(options: CoreOptions, core: AnyAgentCore, ledger: RequestLedger) {
    this.#device = new DeviceModel(options, core, ledger)
    this.#intake = new IntakeRules(this.#device)
    this.#steps = new StepRules(this.#device)
  }

  get device(): Pick<DeviceModel, 'deviceId' | 'incarnation' | 'lastCounter'> & {
    readonly stored: ReadonlySet<string>
  } {
    return this.#device
  }

  on(event: CoreEvent, actions: readonly CoreAction[], nowMs: number): void {
    this.#before(event)
    const isPrefill = event.type === 'prefill' && !actions.some(({ type }) => type === 'refused')
    if (isPrefill) this.#intake.accept(event)
    for (const action of actions) this.#take(event, action, nowMs)
    if (isPrefill) this.#intake.checkAccepted(event)
    if (actions.length > 0) this.#device.recount()
    if (event.type === 'step-finished') this.#steps.fillLater(event)
    for (const action of actions) if (action.type === 'run-step') this.#steps.check(action)
    this.#checkTimes(nowMs)
    if (event.type === 'tick') this.#checkLoad()
    if (actions.length > 0) this.#checkBusy()
  }

  /** What it still holds of an epoch, and since when; undefined where nothing. */
  holds(requestId: string, epoch: number): { readonly what: string; readonly sinceMs: number } | undefined {
    const is = (other: { readonly requestId: string; readonly epoch: number }) =>
      other.requestId === requestId && other.epoch === epoch
    for (const sequence of this.#device.sequences.values()) {
      if (is(sequence)) return { what: `a sequence that is ${sequence.phase}`, sinceMs: 0 }
    }
    for (const lease of this.#device.leases.values()) {
      if (is(lease)) return { what: `lease ${lease.counter}`, sinceMs: lease.issuedMs }
    }
    for (const lease of this.#device.held.ended.values()) {
      if (is(lease)) return { what: 'blocks that a transfer or a step touches', sinceMs: 0 }
    }
    return undefined
  }

  /** Once nothing is asked any more. Its core is not used after. */
  checkRest(nowMs: number): void {
    this.#checkLoad()
    const left = [
      ...this.#device.leases.values(),
      ...this.#device.held.ended.values(),
      ...this.#device.sequences.values(),
    ]
    const [first] = left
    if (first)
      this.#device.fail('I4', `still holds something of ${first.requestId} at the end`, first.requestId)
    const stored = [...this.#device.core.storedHashes()].length
    if (stored !== this.#device.stored.size) {
      this.#device.fail('books', `has ${stored} stored blocks and told of ${this.#device.stored.size}`)
    }
    const cached = this.#device.core.load().tiers.reduce((sum, { cachedBlocks }) => sum + cachedBlocks, 0)
    if (cached !== stored)
      this.#device.fail('books', `has ${stored} stored blocks at rest and counts ${cached} as cached`)
    const [loan] = this.#device.held.loans.values()
    if (loan) this.#device.fail('I4', `still lends block ${loan.blocks[0]} at the end`)
    // What nobody touches can be given up, all of it.
    const evicted = this.#device.core
      .step({ type: 'evict', drop: true }, nowMs)
      .find(({ type }) => type === 'evicted')
    if (evicted?.type !== 'evicted' || evicted.blocks !== stored)
      this.#device.fail('I4', `keeps some of ${stored} cached blocks from being evicted at the end`)
  }

  /** What the event itself brings about, before the core decides anything. */
  #before(event: CoreEvent): void {
    switch (event.type) {
      case 'pin':
      case 'unpin':
        this.#pin(event)
        break
      case 'return':
        this.#device.held.loans.delete(event.loan)
        this.#device.held.changed()
        break
      case 'fetched':
        this.#intake.fetched(event)
        break
      case 'received':
        this.#intake.received(event)
        break
      case 'step-finished':
        this.#steps.finished(event)
        break
      case 'step-failed':
        this.#steps.ends()
        break
      default:
    }
  }

  #take(event: CoreEvent, action: CoreAction, nowMs: number): void {
    switch (action.type) {
      case 'granted':
        if (event.type === 'reserve') this.#intake.granted(event, action, nowMs)
        break
      case 'admitted':
        this.#intake.admitted(action, nowMs)
        break
      case 'attached':
        if (event.type === 'decode') this.#intake.attached(event, action)
        break
      case 'released':
        if (event.type === 'release') this.#intake.released(event)
        break
      case 'lent':
        if (event.type === 'lend' && action.loan !== 0) {
          this.#device.held.loans.set(action.loan, { blocks: action.blocks, names: event.hashes })
        }
        break
      case 'demote':
        for (const { block, hash } of action.blocks) this.#demoted(block, hash)
        break
      case 'copy':
        this.#copied(action)
        break
      case 'kv-changed':
        this.#changed(action)
        break
      case 'run-step':
        this.#steps.begins(action)
        break
      case 'sequence-ended':
        this.#sequenceEnded(action)
        break
      case 'lease-ended':
        this.#leaseEnded(action.counter)
        break
      default:
    }
  }

  #pin({ type, counter }: AgentEvent<'pin' | 'unpin'>): void {
    const holding = this.#device.leases.get(counter) ?? this.#device.held.ended.get(counter)
    if (holding === undefined) return
    holding.pins += type === 'pin' ? 1 : -1
    const isInStep = this.#device.isInStep(holding)
    if (holding.pins <= 0 && !isInStep) this.#device.held.ended.delete(counter)
    this.#device.held.changed()
  }

  #demoted(block: number, hash: string): void {
    if (this.#device.held.isInUse(block))
      this.#device.fail('I1', `evicts block ${block} (${hash}), which is in use`)
    if (!this.#device.contents.holds(block, hash, this.#device.blockTokens)) {
      this.#device.fail(
        'I6',
        `hands on block ${block} as ${hash}, but it holds ${this.#device.contents.text(block)}`,
      )
    }
  }

  #copied({ from, to }: AgentAction<'copy'>): void {
    const places = new Map<number, number>()
    for (const [index, block] of from.entries()) {
      const place = to[index] ?? -1
      if (this.#device.held.isInUse(place))
        this.#device.fail('I1', `moves block ${block} over block ${place}, which is in use`)
      const touched = [...this.#device.leases.values(), ...this.#device.held.ended.values()].find(
        ({ pins, blocks }) => pins > 0 && blocks.includes(block),
      )
      if (touched) this.#device.fail('I1', `moves block ${block} away from a transfer`, touched.requestId)
      this.#device.contents.copy(block, place)
      places.set(block, place)
    }
    this.#device.held.moved(places)
  }

  #changed({ stored, removed }: AgentAction<'kv-changed'>): void {
    for (const name of removed) {
      if (!this.#device.stored.delete(name))
        this.#device.fail('books', `tells that ${name} is gone, which it never had`)
    }
    if (stored.length === 0) return
    const full = this.#device.contents.fullNames(this.#device.blockTokens)
    for (const name of stored) {
      if (this.#device.stored.has(name)) this.#device.fail('books', `tells of ${name} twice`)
      if (!full.has(name)) this.#device.fail('I6', `tells that it holds ${name}, which no block contains`)
      this.#device.stored.add(name)
    }
  }

  #sequenceEnded({ sequence: id }: AgentAction<'sequence-ended'>): void {
    const sequence = this.#device.sequences.get(id)
    if (sequence === undefined) this.#device.fail('books', `ends sequence ${id}, which it has not`)
    this.#device.sequences.delete(id)
  }

  #leaseEnded(counter: bigint): void {
    const lease = this.#device.leases.get(counter)
    if (lease === undefined) {
      this.#device.fail('books', `ends lease ${counter}, which it never issued or ended before`)
      return
    }
    this.#device.leases.delete(counter)
    this.#device.held.leases.delete(counter)
    const isInStep = this.#device.isInStep(lease)
    if (isInStep || lease.pins > 0) this.#device.held.ended.set(counter, lease)
    this.#device.held.changed()
  }

  #checkTimes(nowMs: number): void {
    for (const { counter, sequence, issuedMs, requestId } of this.#device.leases.values()) {
      if (sequence !== undefined || nowMs < issuedMs + this.#device.options.leaseTtlMs) continue
      this.#device.fail(
        'I4',
        `keeps lease ${counter} of ${requestId} after its time to live, though nobody uses it`,
        requestId,
      )
    }
  }

  #checkLoad(): void {
    const load = this.#device.core.load()
    this.#device.recount()
    const slots = [...this.#device.leases.values()].filter(({ role }) => role === 'decode').length
    const counts = [
      ['leases', load.leases, this.#device.leases.size],
      ['sequences', load.sequences, this.#device.sequences.size],
      ['decode slots in use', load.decodeSlotsUsed, slots],
      ['blocks in use', load.usedBlocks, this.#device.held.usedBlocks],
    ] as const
    for (const [what, counted, are] of counts) {
      if (counted !== are) this.#device.fail('books', `counts ${counted} ${what}, and there are ${are}`)
    }
    for (const { name, leasedBlocks, cachedBlocks, capacityBlocks } of load.tiers) {
      if (leasedBlocks < 0 || cachedBlocks < 0 || leasedBlocks + cachedBlocks > capacityBlocks) {
        this.#device.fail(
          'I1',
          `has ${leasedBlocks} leased and ${cachedBlocks} cached blocks in ${name} of ${capacityBlocks}`,
        )
      }
    }
  }

  /** Whoever has rows to compute is computing. */
  #checkBusy(): void {
    if (this.#device.running !== undefined) return
    for (const { phase, requestId, lease } of this.#device.sequences.values()) {
      if (phase === 'prefilling' && lease)
        this.#device.fail('I2', `is idle though it could prefill ${requestId}`, requestId)
    }
  }
}
