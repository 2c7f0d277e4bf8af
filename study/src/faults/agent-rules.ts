/**
 * Checks one life of a device agent's core against a model of its own, event by event: what it was told and what it
 * answered is all that the model knows.
 *
 * What must hold: memory only under a living lease of this life, never more than there is, nothing granted twice (I1);
 * waiting and slots bounded (I2); a token computed over its own prefix, each once (I3); what ended holds nothing (I4); what
 * is reused is what it is named (I6); and the core's own counts.
 */
import type { CoreOptions } from '@kvasir/agent/core/core-options'
import type { CoreAction, CoreEvent, StepPart } from '@kvasir/agent/core/events'
import type { AnyAgentCore } from '../cluster/world.js'
import { BlockContents } from './block-contents.js'
import { HeldBlocks, type Holding } from './held-blocks.js'
import type { RequestLedger } from './request-ledger.js'
import { Violation } from './violation.js'

type Event<Type extends CoreEvent['type']> = Extract<CoreEvent, { type: Type }>
type Action<Type extends CoreAction['type']> = Extract<CoreAction, { type: Type }>

type Phase = 'waiting' | 'fetching' | 'prefilling' | 'computed' | 'receiving' | 'decoding'

interface Lease extends Holding {
  readonly counter: bigint
  readonly role: 'prefill' | 'decode' | 'attend'
  readonly issuedMs: number
  /** Undefined: nobody uses it yet. */
  sequence: number | undefined
}

interface Sequence {
  readonly id: number
  readonly role: 'prefill' | 'decode'
  readonly requestId: string
  readonly epoch: number
  readonly promptTokens: number
  readonly fetchTokens: number
  /** Index of the first token that it samples. */
  readonly firstIndex: number
  lease: Lease | undefined
  phase: Phase
  computedTokens: number
  sampledTokens: number
}

export class AgentRules {
  readonly deviceId: string
  readonly incarnation: bigint
  readonly #options: CoreOptions
  readonly #core: AnyAgentCore
  readonly #ledger: RequestLedger
  readonly #contents: BlockContents
  readonly #held: HeldBlocks
  readonly #leases = new Map<bigint, Lease>()
  readonly #sequences = new Map<number, Sequence>()
  readonly #stored = new Set<string>()
  readonly #blockTokens: number
  #lastCounter = 0n
  #running: readonly { readonly part: StepPart; readonly lease: Lease }[] | undefined

  constructor(options: CoreOptions, core: AnyAgentCore, ledger: RequestLedger) {
    this.deviceId = options.deviceId
    this.incarnation = options.incarnation
    this.#options = options
    this.#core = core
    this.#ledger = ledger
    this.#blockTokens = options.blockTokens ?? 16
    this.#contents = new BlockContents(options.tiers.reduce((sum, { blocks }) => sum + blocks, 0))
    this.#held = new HeldBlocks(this.deviceId, this.#contents, this.#blockTokens, ledger)
  }

  /** Hashes of full blocks, as the core told of them. */
  get stored(): ReadonlySet<string> {
    return this.#stored
  }

  /** The newest lease that it issued. */
  get lastCounter(): bigint {
    return this.#lastCounter
  }

  on(event: CoreEvent, actions: readonly CoreAction[], nowMs: number): void {
    this.#before(event)
    const isPrefill = event.type === 'prefill' && !actions.some(({ type }) => type === 'refused')
    if (isPrefill) this.#accept(event)
    for (const action of actions) this.#take(event, action, nowMs)
    if (isPrefill) this.#checkAccepted(event)
    if (actions.length > 0) this.#recount()
    if (event.type === 'step-finished') this.#fillLater(event)
    for (const action of actions) if (action.type === 'run-step') this.#checkStep(action)
    this.#checkTimes(nowMs)
    if (event.type === 'tick') this.#checkLoad()
    if (actions.length > 0) this.#checkBusy()
  }

  /** What it still holds of an epoch, and since when; undefined where nothing. */
  holds(requestId: string, epoch: number): { readonly what: string; readonly sinceMs: number } | undefined {
    const is = (other: { readonly requestId: string; readonly epoch: number }) =>
      other.requestId === requestId && other.epoch === epoch
    for (const sequence of this.#sequences.values()) {
      if (is(sequence)) return { what: `a sequence that is ${sequence.phase}`, sinceMs: 0 }
    }
    for (const lease of this.#leases.values()) {
      if (is(lease)) return { what: `lease ${lease.counter}`, sinceMs: lease.issuedMs }
    }
    for (const lease of this.#held.ended.values()) {
      if (is(lease)) return { what: 'blocks that a transfer or a step touches', sinceMs: 0 }
    }
    return undefined
  }

  /** Once nothing is asked any more. Its core is not used after. */
  checkRest(nowMs: number): void {
    this.#checkLoad()
    const left = [...this.#leases.values(), ...this.#held.ended.values(), ...this.#sequences.values()]
    const [first] = left
    if (first) this.#fail('I4', `still holds something of ${first.requestId} at the end`, first.requestId)
    const stored = [...this.#core.storedHashes()].length
    if (stored !== this.#stored.size) {
      this.#fail('books', `has ${stored} stored blocks and told of ${this.#stored.size}`)
    }
    const cached = this.#core.load().tiers.reduce((sum, { cachedBlocks }) => sum + cachedBlocks, 0)
    if (cached !== stored)
      this.#fail('books', `has ${stored} stored blocks at rest and counts ${cached} as cached`)
    const [loan] = this.#held.loans.values()
    if (loan) this.#fail('I4', `still lends block ${loan.blocks[0]} at the end`)
    // What nobody touches can be given up, all of it.
    const evicted = this.#core
      .step({ type: 'evict', drop: true }, nowMs)
      .find(({ type }) => type === 'evicted')
    if (evicted?.type !== 'evicted' || evicted.blocks !== stored)
      this.#fail('I4', `keeps some of ${stored} cached blocks from being evicted at the end`)
  }

  /** What the event itself brings about, before the core decides anything. */
  #before(event: CoreEvent): void {
    switch (event.type) {
      case 'pin':
      case 'unpin':
        this.#pin(event)
        break
      case 'return':
        this.#held.loans.delete(event.loan)
        this.#held.changed()
        break
      case 'fetched':
        this.#fetched(event)
        break
      case 'received':
        this.#received(event)
        break
      case 'step-finished':
        this.#stepFinished(event)
        break
      case 'step-failed':
        this.#endStep()
        break
      default:
    }
  }

  #take(event: CoreEvent, action: CoreAction, nowMs: number): void {
    switch (action.type) {
      case 'granted':
        if (event.type === 'reserve') this.#granted(event, action, nowMs)
        break
      case 'admitted':
        this.#admitted(action, nowMs)
        break
      case 'attached':
        if (event.type === 'decode') this.#attached(event, action)
        break
      case 'released':
        if (event.type === 'release') this.#released(event)
        break
      case 'lent':
        if (event.type === 'lend' && action.loan !== 0) {
          this.#held.loans.set(action.loan, { blocks: action.blocks, names: event.hashes })
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
        this.#runs(action)
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

  #pin({ type, counter }: Event<'pin' | 'unpin'>): void {
    const holding = this.#leases.get(counter) ?? this.#held.ended.get(counter)
    if (holding === undefined) return
    holding.pins += type === 'pin' ? 1 : -1
    const isInStep = this.#running?.some(({ lease }) => lease === holding) === true
    if (holding.pins <= 0 && !isInStep) this.#held.ended.delete(counter)
    this.#held.changed()
  }

  /** A prefill that was not refused is in, with memory at once or later. */
  #accept({ sequence, requestId, epoch, promptTokens, fetchTokens }: Event<'prefill'>): void {
    this.#ledger.checkContext(requestId, promptTokens, this.deviceId)
    const firstIndex = promptTokens - this.#ledger.request(requestId).promptTokens
    this.#sequences.set(sequence, {
      id: sequence,
      role: 'prefill',
      ...{ requestId, epoch, promptTokens, fetchTokens, firstIndex },
      lease: undefined,
      phase: 'waiting',
      computedTokens: 0,
      sampledTokens: 0,
    })
  }

  #checkAccepted({ requestId, epoch }: Event<'prefill'>): void {
    this.#checkFence(requestId, epoch)
    let waiting = 0
    for (const { phase } of this.#sequences.values()) if (phase === 'waiting') waiting += 1
    if (waiting > this.#options.waitingMax) this.#fail('I2', `lets ${waiting} prompts wait`, requestId)
  }

  #granted({ requestId, epoch, purpose }: Event<'reserve'>, action: Action<'granted'>, nowMs: number): void {
    this.#checkFence(requestId, epoch)
    this.#issue({ counter: action.counter, role: purpose, requestId, epoch, sequence: undefined }, nowMs)
    let slots = 0
    for (const { role } of this.#leases.values()) if (role === 'decode') slots += 1
    if (slots > this.#options.decodeSlots) this.#fail('I2', `grants ${slots} decode slots`, requestId)
    this.#checkCached(action.counter, action.cachedTokens)
  }

  #admitted({ sequence: id, counter, cachedTokens }: Action<'admitted'>, nowMs: number): void {
    const sequence = this.#sequences.get(id)
    if (sequence === undefined) return
    const { requestId, epoch } = sequence
    sequence.lease = this.#issue({ counter, role: 'prefill', requestId, epoch, sequence: id }, nowMs)
    this.#checkCached(counter, cachedTokens)
    this.#begin(sequence, cachedTokens)
  }

  #attached(event: Event<'decode'>, { sequence: id, cachedTokens }: Action<'attached'>): void {
    const { requestId, epoch, lease: shown, promptTokens, firstIndex, fetchTokens, kv } = event
    const lease = this.#leases.get(shown.counter)
    const isOfLife = shown.deviceId === this.deviceId && shown.incarnation === this.#options.incarnation
    if (!isOfLife || lease === undefined) {
      this.#fail(
        'I1',
        `lets ${requestId} use a lease that is not alive (${shown.counter} of life ${shown.incarnation})`,
        requestId,
      )
      return
    }
    if (lease.requestId !== requestId || lease.epoch !== epoch || lease.sequence !== undefined) {
      this.#fail('I1', `lets ${requestId} use a lease of ${lease.requestId}`, requestId)
    }
    this.#ledger.checkContext(requestId, promptTokens, this.deviceId)
    if (promptTokens !== this.#ledger.request(requestId).promptTokens + firstIndex) {
      this.#fail(
        'I3',
        `decodes ${requestId} from token ${firstIndex} with a context of ${promptTokens}`,
        requestId,
      )
    }
    lease.sequence = id
    lease.blocks = this.#blocksOf(shown.counter)
    const sequence: Sequence = {
      ...{ id, role: 'decode', requestId, epoch, promptTokens, fetchTokens, firstIndex, lease },
      phase: 'receiving',
      computedTokens: cachedTokens,
      sampledTokens: 0,
    }
    this.#sequences.set(id, sequence)
    this.#held.checkPrefix(lease, cachedTokens)
    if (kv === 'computed') this.#begin(sequence, cachedTokens)
  }

  #released({ lease }: Event<'release'>): void {
    if (lease.deviceId === this.deviceId && lease.incarnation === this.#options.incarnation) return
    this.#fail(
      'I1',
      `releases lease ${lease.counter} of life ${lease.incarnation}, and this is life ${this.incarnation}`,
    )
  }

  #issue(lease: Pick<Lease, 'counter' | 'role' | 'requestId' | 'epoch' | 'sequence'>, nowMs: number): Lease {
    const { counter, requestId } = lease
    if (this.#leases.has(counter)) this.#fail('I1', `issues lease ${counter} twice`, requestId)
    const issued: Lease = { ...lease, issuedMs: nowMs, pins: 0, blocks: this.#blocksOf(counter) }
    this.#lastCounter = counter
    this.#leases.set(counter, issued)
    this.#held.leases.set(counter, issued)
    return issued
  }

  #begin(sequence: Sequence, cachedTokens: number): void {
    sequence.computedTokens = cachedTokens
    sequence.phase = this.#fetchable(sequence) > cachedTokens ? 'fetching' : 'prefilling'
  }

  #fetchable({ fetchTokens, promptTokens }: Sequence): number {
    const size = this.#blockTokens
    return Math.min(Math.floor(fetchTokens / size), Math.floor((promptTokens - 1) / size)) * size
  }

  #fetched({ sequence: id, tokens }: Event<'fetched'>): void {
    const sequence = this.#sequences.get(id)
    if (sequence?.phase !== 'fetching') return
    this.#fill(sequence, Math.min(tokens, this.#fetchable(sequence)))
    sequence.phase = 'prefilling'
  }

  #received({ sequence: id, stopped }: Event<'received'>): void {
    const sequence = this.#sequences.get(id)
    if (sequence?.phase !== 'receiving') return
    const { requestId, epoch, promptTokens } = sequence
    if (!this.#ledger.isPrefilled(requestId, epoch)) {
      this.#fail('I6', `takes KV of ${requestId} for complete that was not computed yet`, requestId)
    }
    this.#fill(sequence, promptTokens)
    sequence.sampledTokens = 1
    if (!stopped) sequence.phase = 'decoding'
  }

  /** Tokens up to `tokens` are in its blocks now. */
  #fill(sequence: Sequence, tokens: number): void {
    const { lease, requestId, computedTokens } = sequence
    if (lease === undefined || tokens <= computedTokens) return
    const size = this.#blockTokens
    for (let page = Math.floor(computedTokens / size); page * size < tokens; page += 1) {
      const block = lease.blocks[page] ?? -1
      this.#held.checkAlone(block, lease)
      const filled = Math.min(size, tokens - page * size)
      this.#contents.write(block, this.#ledger.pageName(requestId, page), filled)
    }
    sequence.computedTokens = tokens
  }

  #runs({ parts }: Action<'run-step'>): void {
    if (this.#running !== undefined) this.#fail('books', 'runs two steps at once')
    const running: { part: StepPart; lease: Lease }[] = []
    for (const part of parts) {
      const sequence = this.#sequences.get(part.sequence)
      const lease = sequence?.lease
      if (lease === undefined || !this.#leases.has(lease.counter)) {
        this.#fail('I1', `computes rows of sequence ${part.sequence} without a lease`, sequence?.requestId)
      } else running.push({ part, lease })
    }
    this.#running = running
  }

  #checkStep({ parts }: Action<'run-step'>): void {
    const decodes = parts.filter(({ role }) => role === 'decode').length
    if (decodes > (this.#options.decodesAtOnce ?? Number.POSITIVE_INFINITY)) {
      this.#fail('I2', `decodes ${decodes} sequences in one step`)
    }
    for (const { part, lease } of this.#running ?? []) {
      const sequence = this.#sequences.get(part.sequence)
      if (sequence === undefined) continue
      const { requestId, role, phase, promptTokens, computedTokens, sampledTokens } = sequence
      if (part.count < 1) this.#fail('I3', `computes no row of ${requestId}`, requestId)
      const isDecode = part.role === 'decode'
      const expected = isDecode ? promptTokens + sampledTokens - 1 : computedTokens
      if (part.start !== expected || (isDecode ? 'decoding' : 'prefilling') !== phase) {
        this.#fail(
          'I3',
          `computes ${requestId} (${role}) from token ${part.start} while it is ${phase} at ${expected}`,
          requestId,
        )
      }
      this.#checkRows(part, lease)
    }
  }

  /** All before the rows is there, and nobody else has the blocks that they are written to. */
  #checkRows({ start, count, blocks }: StepPart, lease: Lease): void {
    const size = this.#blockTokens
    for (const [page, block] of blocks.entries()) {
      const first = page * size
      if (lease.blocks[page] !== block) {
        this.#fail(
          'I1',
          `computes ${lease.requestId} in block ${block}, which its lease has not`,
          lease.requestId,
        )
      }
      if (first < start) {
        this.#held.checkPage(lease.requestId, page, block, Math.min(size, start - first))
      }
      if (first + size <= start || first >= start + count) continue
      this.#held.checkAlone(block, lease)
      // From now on, since also a step that is cancelled may have written.
      this.#contents.write(block, this.#ledger.pageName(lease.requestId, page), Math.max(0, start - first))
    }
  }

  #stepFinished({ cancelled, steps = 1 }: Event<'step-finished'>): void {
    const running = this.#running ?? []
    if (!cancelled) for (const { part, lease } of running) this.#ran(part, lease, steps)
    this.#endStep()
  }

  #ran({ sequence: id, role, start, count, wantLogits }: StepPart, lease: Lease, steps: number): void {
    const size = this.#blockTokens
    const end = start + count + steps - 1
    // Its blocks stay untouched until now, also where the lease has ended meanwhile.
    for (let page = Math.floor(start / size); page * size < end; page += 1) {
      const block = lease.blocks[page]
      if (block === undefined) break
      this.#contents.write(
        block,
        this.#ledger.pageName(lease.requestId, page),
        Math.min(size, end - page * size),
      )
    }
    const sequence = this.#sequences.get(id)
    if (sequence === undefined) return
    sequence.computedTokens = end
    if (!wantLogits) return
    const { requestId, epoch, firstIndex } = sequence
    sequence.sampledTokens += steps
    this.#ledger.sampled(requestId, firstIndex + sequence.sampledTokens)
    if (sequence.role === 'decode') sequence.phase = 'decoding'
    else {
      sequence.phase = 'computed'
      this.#ledger.prefilled(requestId, epoch)
    }
    if (role === 'prefill' && end !== sequence.promptTokens) {
      this.#fail(
        'I3',
        `samples a token of ${requestId} after ${end} of ${sequence.promptTokens} tokens`,
        requestId,
      )
    }
  }

  /** Several steps as one may have gone on into blocks that the lease got meanwhile. */
  #fillLater({ cancelled, steps = 1 }: Event<'step-finished'>): void {
    if (cancelled || steps === 1) return
    const size = this.#blockTokens
    for (const sequence of this.#sequences.values()) {
      const { lease, computedTokens, requestId, phase } = sequence
      if (lease === undefined || phase !== 'decoding') continue
      const page = Math.floor((computedTokens - 1) / size)
      for (let at = Math.max(0, page - Math.ceil(steps / size)); at <= page; at += 1) {
        const block = lease.blocks[at]
        const name = this.#ledger.pageName(requestId, at)
        const filled = Math.min(size, computedTokens - at * size)
        const isNew = block !== undefined && !this.#contents.holds(block, name, 1)
        if (isNew && this.#isGenerated(sequence, at)) this.#contents.write(block, name, filled)
      }
    }
  }

  /** Whether no token of the prompt is on the page. */
  #isGenerated({ promptTokens }: Sequence, page: number): boolean {
    return page * this.#blockTokens >= promptTokens
  }

  #endStep(): void {
    const running = this.#running ?? []
    this.#running = undefined
    for (const { lease } of running) if (lease.pins <= 0) this.#held.ended.delete(lease.counter)
    this.#held.changed()
  }

  #demoted(block: number, hash: string): void {
    if (this.#held.isInUse(block)) this.#fail('I1', `evicts block ${block} (${hash}), which is in use`)
    if (!this.#contents.holds(block, hash, this.#blockTokens)) {
      this.#fail('I6', `hands on block ${block} as ${hash}, but it holds ${this.#contents.text(block)}`)
    }
  }

  #copied({ from, to }: Action<'copy'>): void {
    const places = new Map<number, number>()
    for (const [index, block] of from.entries()) {
      const place = to[index] ?? -1
      if (this.#held.isInUse(place))
        this.#fail('I1', `moves block ${block} over block ${place}, which is in use`)
      const touched = [...this.#leases.values(), ...this.#held.ended.values()].find(
        ({ pins, blocks }) => pins > 0 && blocks.includes(block),
      )
      if (touched) this.#fail('I1', `moves block ${block} away from a transfer`, touched.requestId)
      this.#contents.copy(block, place)
      places.set(block, place)
    }
    this.#held.moved(places)
  }

  #changed({ stored, removed }: Action<'kv-changed'>): void {
    for (const name of removed) {
      if (!this.#stored.delete(name)) this.#fail('books', `tells that ${name} is gone, which it never had`)
    }
    if (stored.length === 0) return
    const full = this.#contents.fullNames(this.#blockTokens)
    for (const name of stored) {
      if (this.#stored.has(name)) this.#fail('books', `tells of ${name} twice`)
      if (!full.has(name)) this.#fail('I6', `tells that it holds ${name}, which no block contains`)
      this.#stored.add(name)
    }
  }

  #sequenceEnded({ sequence: id }: Action<'sequence-ended'>): void {
    const sequence = this.#sequences.get(id)
    if (sequence === undefined) this.#fail('books', `ends sequence ${id}, which it has not`)
    this.#sequences.delete(id)
  }

  #leaseEnded(counter: bigint): void {
    const lease = this.#leases.get(counter)
    if (lease === undefined) {
      this.#fail('books', `ends lease ${counter}, which it never issued or ended before`)
      return
    }
    this.#leases.delete(counter)
    this.#held.leases.delete(counter)
    const isInStep = this.#running?.some((row) => row.lease === lease) === true
    if (isInStep || lease.pins > 0) this.#held.ended.set(counter, lease)
    this.#held.changed()
  }

  #recount(): void {
    this.#refresh()
    this.#held.recount()
  }

  /** What the core says that living leases hold now. */
  #refresh(): void {
    for (const lease of this.#leases.values()) lease.blocks = this.#blocksOf(lease.counter)
  }

  #blocksOf(counter: bigint): readonly number[] {
    try {
      return [...this.#core.blocks(counter)]
    } catch {
      // Ended with the same event.
      return this.#leases.get(counter)?.blocks ?? []
    }
  }

  #checkCached(counter: bigint, cachedTokens: number): void {
    const lease = this.#leases.get(counter)
    if (lease) this.#held.checkPrefix(lease, cachedTokens)
  }

  /** A newer placement of a request ends what an older one holds; an older one is refused. */
  #checkFence(requestId: string, epoch: number): void {
    for (const other of [...this.#leases.values(), ...this.#sequences.values()]) {
      if (other.requestId !== requestId || other.epoch === epoch) continue
      const which = other.epoch > epoch ? 'an older' : 'a newer'
      this.#fail('I1', `takes ${which} placement of ${requestId} beside epoch ${other.epoch}`, requestId)
    }
  }

  #checkTimes(nowMs: number): void {
    for (const { counter, sequence, issuedMs, requestId } of this.#leases.values()) {
      if (sequence !== undefined || nowMs < issuedMs + this.#options.leaseTtlMs) continue
      this.#fail(
        'I4',
        `keeps lease ${counter} of ${requestId} after its time to live, though nobody uses it`,
        requestId,
      )
    }
  }

  #checkLoad(): void {
    const load = this.#core.load()
    this.#recount()
    const slots = [...this.#leases.values()].filter(({ role }) => role === 'decode').length
    const counts = [
      ['leases', load.leases, this.#leases.size],
      ['sequences', load.sequences, this.#sequences.size],
      ['decode slots in use', load.decodeSlotsUsed, slots],
      ['blocks in use', load.usedBlocks, this.#held.usedBlocks],
    ] as const
    for (const [what, counted, are] of counts) {
      if (counted !== are) this.#fail('books', `counts ${counted} ${what}, and there are ${are}`)
    }
    for (const { name, leasedBlocks, cachedBlocks, capacityBlocks } of load.tiers) {
      if (leasedBlocks < 0 || cachedBlocks < 0 || leasedBlocks + cachedBlocks > capacityBlocks) {
        this.#fail(
          'I1',
          `has ${leasedBlocks} leased and ${cachedBlocks} cached blocks in ${name} of ${capacityBlocks}`,
        )
      }
    }
  }

  /** Whoever has rows to compute is computing. */
  #checkBusy(): void {
    if (this.#running !== undefined) return
    for (const { phase, requestId, lease } of this.#sequences.values()) {
      if (phase === 'prefilling' && lease)
        this.#fail('I2', `is idle though it could prefill ${requestId}`, requestId)
    }
  }

  #fail(rule: 'I1' | 'I2' | 'I3' | 'I4' | 'I6' | 'books', what: string, requestId?: string): void {
    const about = requestId === undefined ? [this.deviceId] : [this.deviceId, requestId]
    throw new Violation(rule, `${this.deviceId} ${what}.`, about)
  }
}
