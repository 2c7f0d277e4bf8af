/**
 * Stands in for the shell around an AgentCore and for its device, and checks, after every event, what
 * must hold whatever happens: it keeps its own books and compares.
 */
import { AgentCore } from '../core/agent-core.js'
import type { CoreOptions } from '../core/core-options.js'
import type { CoreAction, CoreEvent, LeasePurpose } from '../core/events.js'
import { pageLabel, pageLabels } from './block-contents.js'
import { CoreBooks } from './core-books.js'
import { fail, type KnownLease, pick } from './core-known.js'
import type { Operation } from './core-operations.js'

type Event<Type extends CoreEvent['type']> = Extract<CoreEvent, { type: Type }>
type Own<Type extends Operation['type']> = Extract<Operation, { type: Type }>

export class CoreHarness {
  readonly core: AgentCore
  readonly books: CoreBooks
  private nowMs = 0
  private nextSequence = 1

  constructor(private readonly options: CoreOptions) {
    this.core = new AgentCore(options)
    this.books = new CoreBooks(this.core, options)
  }

  run(operation: Operation): void {
    const { books } = this
    switch (operation.type) {
      case 'reserve':
        this.reserve(operation)
        return
      case 'prefill':
        this.prefill(operation)
        return
      case 'decode':
        this.decode(operation)
        return
      case 'attend':
        this.attend(operation)
        return
      case 'extend': {
        const lease = pick(books.known(), operation.lease)
        if (lease !== undefined)
          this.apply({ type: 'extend', lease: this.reference(lease), tokens: operation.tokens })
        return
      }
      case 'release': {
        const lease = pick(books.known(), operation.pick)
        if (lease !== undefined) this.apply({ type: 'release', lease: this.reference(lease) })
        return
      }
      case 'pin':
      case 'unpin': {
        const pins = operation.type === 'pin'
        const fitting = books.known().filter(({ alive, pins: count }) => (pins ? alive : count > 0))
        const lease = pick(fitting, operation.pick)
        if (lease === undefined) return
        if (pins) lease.pins += 1
        else books.unpinned(lease)
        this.apply({ type: operation.type, counter: lease.counter })
        return
      }
      case 'fetched':
      case 'held':
        this.arrive(operation.type, operation.pick, operation.tokens)
        return
      case 'received':
        this.arrive('received', operation.pick, Number.POSITIVE_INFINITY)
        return
      case 'sent': {
        const sequence = pick([...books.sequences.values()], operation.pick)
        if (sequence !== undefined) this.apply({ type: 'sent', sequence: sequence.id, blocks: 1 })
        return
      }
      case 'offloaded':
        this.offloaded(operation.pick)
        return
      case 'cancel': {
        const sequence = pick([...books.sequences.values()], operation.pick)
        if (sequence !== undefined) this.apply({ type: 'end', sequence: sequence.id, cause: 'cancelled' })
        return
      }
      case 'reads': {
        const sequence = pick(books.inPhase('attending'), operation.pick)
        if (sequence === undefined) return
        const reads = pattern(sequence.prompt / 16, operation.pattern)
        this.apply({ type: 'reads', sequence: sequence.id, reads, mass: reads })
        return
      }
      case 'lend':
        this.lend(operation)
        return
      case 'return': {
        const loan = pick([...books.loans.keys()], operation.pick)
        if (loan === undefined) return
        books.loans.delete(loan)
        this.apply({ type: 'return', loan })
        return
      }
      case 'evict':
        this.evict(operation.drop)
        return
      case 'finish-step':
        this.finishStep(operation)
        return
      case 'wait':
        this.nowMs += operation.elapsedMs
        this.apply({ type: 'tick' })
        return
      case 'drain':
        this.apply({ type: 'drain' })
        return
    }
  }

  /** Ends everything, as an agent that closes does. */
  endAll(): void {
    this.apply({ type: 'drain' })
    this.apply({ type: 'end-all' })
    for (const lease of this.books.known()) {
      while (lease.pins > 0) {
        this.books.unpinned(lease)
        this.apply({ type: 'unpin', counter: lease.counter })
      }
    }
    for (const loan of [...this.books.loans.keys()]) this.run({ type: 'return', pick: loan })
    this.finishStep({ stops: false, fails: false, remoteFails: false, pattern: 0 })
  }

  private reserve({ request, epoch, text, prompt, room, reuse, purpose }: Own<'reserve'>): void {
    const requestId = `request-${request}`
    const hashes = reuse ? pageLabels(text, prompt) : []
    const event = { type: 'reserve', requestId, epoch, tokens: prompt + room, hashes, purpose } as const
    const granted = this.apply(event).find((action) => action.type === 'granted')
    if (granted === undefined) return
    this.books.learn({ counter: granted.counter, requestId, epoch, text, prompt, reuse, purpose })
    this.books.expectCached(granted.counter, granted.cachedTokens)
  }

  private prefill({ request, epoch, text, prompt, reuse, fetch }: Own<'prefill'>): void {
    const id = this.nextSequence++
    const sequence = this.books.take({ id, role: 'prefill', text, prompt, reuse, phase: 'waiting' })
    sequence.fetch = fetch
    const hashes = reuse ? pageLabels(text, prompt) : []
    const requestId = `request-${request}`
    this.apply({
      type: 'prefill',
      sequence: id,
      requestId,
      epoch,
      promptTokens: prompt,
      hashes,
      fetchTokens: fetch,
    })
  }

  private decode({ lease: index, more, tokensMax, pulled, fetch, offload, otherText }: Own<'decode'>): void {
    const lease = this.leaseFor('decode', index)
    if (lease === undefined) return
    const text = otherText ? lease.text + 2 : lease.text
    const prompt = lease.prompt + more
    const id = this.nextSequence++
    const phase = pulled ? 'receiving' : 'prefilling'
    const sequence = this.books.take({ id, role: 'decode', text, prompt, reuse: lease.reuse, phase })
    sequence.counter = lease.counter
    sequence.fetch = fetch
    const pages = Math.floor(prompt / 16)
    sequence.offload = offload === 'none' ? undefined : { pages, mode: offload }
    const wasAlive = lease.alive
    const event: Event<'decode'> = {
      type: 'decode',
      sequence: id,
      lease: this.reference(lease),
      requestId: lease.requestId,
      epoch: lease.epoch,
      promptTokens: prompt,
      firstIndex: 0,
      tokensMax,
      kv: pulled ? 'pulled' : 'computed',
      hashes: lease.reuse ? pageLabels(text, prompt) : [],
      fetchTokens: fetch,
      offload: sequence.offload,
    }
    const attached = this.apply(event).some(({ type }) => type === 'attached')
    if (!attached) return
    if (!wasAlive) fail('A dead lease was used')
    if (lease.purpose !== 'decode') fail('A lease was used for what it was not issued for')
    if (otherText && lease.reuse && lease.prompt >= 16) fail('A lease of another prefix was used')
    lease.text = text
  }

  private attend({ lease: index, reuse, push }: Own<'attend'>): void {
    const lease = this.leaseFor('attend', index)
    if (lease === undefined) return
    const { text, requestId, epoch } = lease
    const pages = Math.floor(lease.prompt / 16)
    const id = this.nextSequence++
    const sequence = this.books.take({
      id,
      role: 'attend',
      text,
      prompt: pages * 16,
      reuse: reuse && lease.reuse,
      phase: 'attending',
    })
    sequence.counter = lease.counter
    const hashes = lease.reuse ? pageLabels(text, lease.prompt) : []
    const named = { sequence: id, lease: this.reference(lease), hashes }
    if (push && sequence.reuse && pages > 0) this.apply({ type: 'push', ...named })
    else this.apply({ type: 'attend', requestId, epoch, pages, reuse: sequence.reuse, ...named })
  }

  /** KV comes from another device, into blocks that nothing may have touched meanwhile. */
  private arrive(type: 'fetched' | 'held' | 'received', index: number, wish: number): void {
    const phases = { fetched: 'fetching', received: 'receiving', held: 'attending' } as const
    const sequence = pick(this.books.inPhase(phases[type]), index)
    if (sequence === undefined) return
    const { id, prompt, computed } = sequence
    const most = type === 'fetched' ? this.books.fetchable(sequence) : prompt
    const tokens = Math.max(computed, Math.min(Math.floor(wish / 16) * 16, most))
    this.books.arrived(sequence, tokens)
    if (type === 'fetched') sequence.phase = 'prefilling'
    if (type === 'received') sequence.phase = 'decoding'
    this.apply(type === 'received' ? { type, sequence: id, stopped: false } : { type, sequence: id, tokens })
  }

  private offloaded(index: number): void {
    const offloading = [...this.books.sequences.values()].filter(
      ({ offload, offloaded, ended }) => offload !== undefined && !offloaded && !ended,
    )
    const sequence = pick(offloading, index)
    if (sequence === undefined) return
    sequence.offloaded = true
    this.apply({ type: 'offloaded', sequence: sequence.id })
  }

  private lend({ text, pages }: Own<'lend'>): void {
    const hashes = pageLabels(text, pages * 16)
    const run = hashes.findIndex((hash) => !this.books.stored.has(hash))
    const lent = this.apply({ type: 'lend', hashes }).find((action) => action.type === 'lent')
    if (lent === undefined) fail('Nothing was answered to lend')
    if (lent.blocks.length !== (run < 0 ? pages : run)) fail('Another run was lent than is stored')
    this.books.contents.check(
      lent.blocks,
      0,
      (page) => pageLabel(text, page),
      lent.blocks.length * 16,
      'A loan',
    )
    if (lent.loan > 0) this.books.loans.set(lent.loan, lent.blocks)
  }

  private evict(drop: boolean): void {
    const actions = this.apply({ type: 'evict', drop })
    const evicted = actions.find((action) => action.type === 'evicted')?.blocks ?? fail('No answer to evict')
    const demoted = actions.flatMap((action) => (action.type === 'demote' ? action.blocks : [])).length
    if (drop ? demoted > 0 : demoted < evicted) fail('Evicted blocks were not handed on as asked')
  }

  private finishStep({ stops, fails, remoteFails, pattern: seed }: Omit<Own<'finish-step'>, 'type'>): void {
    const step = this.books.endStep(fails)
    if (step === undefined) return
    const { parts, cancelled } = step
    if (fails) {
      this.apply({ type: 'step-failed' })
      return
    }
    const decodes = parts.filter(({ role }) => role === 'decode')
    const remote = decodes.filter(({ sequence }) => this.books.sequences.get(sequence)?.offload !== undefined)
    const failed = remoteFails ? remote.map(({ sequence }) => sequence) : []
    const stopped = stops ? parts.filter(({ wantLogits }) => wantLogits).map(({ sequence }) => sequence) : []
    const filled = decodes
      .filter(({ start }) => (start + 1) % 16 === 0)
      .map(({ sequence, start }) => ({
        sequence,
        known: this.books.sequences.get(sequence),
        page: start >> 4,
      }))
      .filter(({ known }) => known?.reuse === true)
      .map(({ sequence, known, page }) => ({ sequence, hash: pageLabel(known?.text ?? 0, page) }))
    // Those of even numbers tell what they read; the others read all.
    const reads = decodes
      .filter(({ sequence }) => sequence % 2 === 0)
      .map(({ sequence, blocks }) => {
        const reads = pattern(blocks.length, seed)
        return { sequence, reads, mass: reads }
      })
    // As long as a device on which rows are what costs.
    const elapsedUs = parts.reduce((sum, { count }) => sum + count, 0) * 1_000
    this.apply({ type: 'step-finished', cancelled, stopped, failed, filled, reads, elapsedUs })
  }

  /** A lease of this purpose; at times any, which must be refused. */
  private leaseFor(purpose: LeasePurpose, index: number): KnownLease | undefined {
    const known = this.books.known()
    return pick(index % 8 === 0 ? known : known.filter((lease) => lease.purpose === purpose), index)
  }

  private apply(event: CoreEvent): readonly CoreAction[] {
    const actions = this.core.step(event, this.nowMs)
    this.books.post(event, actions)
    return actions
  }

  private reference({ counter }: Pick<KnownLease, 'counter'>) {
    return { deviceId: this.options.deviceId, incarnation: this.options.incarnation, counter }
  }
}

/** Reads of every fifth page or so, and of the newest. */
function pattern(pages: number, seed: number): Float32Array {
  return Float32Array.from({ length: pages }, (_, page) =>
    page === pages - 1 || (page * 7 + seed) % 5 === 0 ? 1 : 0,
  )
}
