/**
 * The books of the test shell (core-harness.ts): what leases, sequences and blocks should be, posted
 * action by action, and the checks that the core agrees.
 */
import type { AgentCore } from '../core/agent-core.js'
import type { CoreOptions } from '../core/core-options.js'
import type { CoreAction, CoreEvent, StepPart } from '../core/events.js'
import { BlockContents, pageLabel } from './block-contents.js'
import { arriving, fail, type KnownLease, type KnownSequence, labels, pagesOf } from './core-known.js'

export class CoreBooks {
  readonly contents = new BlockContents()
  readonly sequences = new Map<number, KnownSequence>()
  /** What kv-changed told of. */
  readonly stored = new Set<string>()
  readonly loans = new Map<number, readonly number[]>()
  drained = false
  private readonly leases = new Map<bigint, KnownLease>()
  private running: readonly StepPart[] | undefined
  private cancelled = false

  constructor(
    private readonly core: AgentCore,
    private readonly options: CoreOptions,
  ) {}

  known(): KnownLease[] {
    return [...this.leases.values()]
  }

  inPhase(phase: KnownSequence['phase']): KnownSequence[] {
    return [...this.sequences.values()].filter((sequence) => !sequence.ended && sequence.phase === phase)
  }

  get unendedSequences(): number {
    return [...this.sequences.values()].filter(({ ended }) => !ended).length
  }

  take(facts: Pick<KnownSequence, 'id' | 'role' | 'text' | 'prompt' | 'reuse' | 'phase'>): KnownSequence {
    const nothing = { fetch: 0, offload: undefined, offloaded: false, counter: undefined, ended: false }
    const sequence: KnownSequence = { ...facts, ...nothing, computed: 0, cached: 0 }
    this.sequences.set(facts.id, sequence)
    return sequence
  }

  learn(
    facts: Pick<KnownLease, 'counter' | 'requestId' | 'epoch' | 'text' | 'prompt' | 'reuse' | 'purpose'>,
  ): void {
    const blocks = [...this.core.blocks(facts.counter)]
    this.leases.set(facts.counter, { ...facts, alive: true, pins: 0, blocks, first: 0, leaving: [] })
    this.checkMemory()
  }

  fetchable({ fetch, prompt }: KnownSequence): number {
    return Math.min(Math.floor(fetch / 16), Math.floor((prompt - 1) / 16)) * 16
  }

  /** A lease begins with as much as is stored. */
  expectCached(counter: bigint, cachedTokens: number): void {
    const lease = this.lease(counter)
    const { text, reuse, prompt, blocks } = lease
    const label = (page: number) => pageLabel(text, page)
    this.contents.check(blocks, 0, label, cachedTokens, 'A new lease')
    if (reuse && (cachedTokens + 16 > prompt || !this.stored.has(label(cachedTokens / 16)))) return
    if (reuse || cachedTokens > 0) fail(`Lease ${counter} has ${cachedTokens} cached tokens`)
  }

  /** KV of the first `tokens` tokens came; nothing else may have been written where it goes. */
  arrived(sequence: KnownSequence, tokens: number): void {
    const { computed, counter, id } = sequence
    const blocks = this.core.blocks(counter ?? 0n)
    const from = Math.floor(computed / 16)
    this.contents.check(blocks.slice(from), from, arriving(sequence), tokens, `Sequence ${id} receives`)
    this.contents.write(blocks, 0, labels(sequence), computed, tokens)
    sequence.computed = tokens
  }

  /** What it gave up is free where nothing else touches it, for the very step that begins with that. */
  unpinned(lease: KnownLease): void {
    lease.pins -= 1
    const runs = this.running?.some(({ sequence }) => this.sequences.get(sequence)?.counter === lease.counter)
    if (lease.pins === 0 && runs !== true) lease.leaving = []
  }

  /** The running step as the shell's driver ends it. */
  endStep(fails: boolean): { parts: readonly StepPart[]; cancelled: boolean } | undefined {
    const { running: parts, cancelled } = this
    if (parts === undefined) return undefined
    this.running = undefined
    for (const lease of this.leases.values()) if (lease.pins === 0) lease.leaving = []
    for (const part of parts) {
      const sequence = this.sequences.get(part.sequence)
      if (sequence === undefined || sequence.ended || cancelled || fails) continue
      const { blocks, firstPage, start, count } = part
      this.contents.check(blocks, firstPage, labels(sequence), start + count, 'A step that ran')
      sequence.computed += count
      if (part.role === 'prefill' && part.wantLogits) {
        sequence.phase = sequence.role === 'prefill' ? 'computed' : 'decoding'
      }
    }
    return { parts, cancelled }
  }

  post(event: CoreEvent, actions: readonly CoreAction[]): void {
    for (const action of actions) {
      if (action.type === 'refused' && 'sequence' in event) this.sequences.delete(event.sequence)
      this.observe(action, event)
    }
    // A lease that was granted just now is not known yet.
    if (!actions.some(({ type }) => type === 'granted') || event.type === 'extend') this.checkMemory()
  }

  private observe(action: CoreAction, event: CoreEvent): void {
    switch (action.type) {
      case 'admitted': {
        const sequence = this.sequence(action.sequence)
        const { counter } = action
        const { text, prompt, reuse } = sequence
        sequence.counter = counter
        const facts = { requestId: '', epoch: 0, text, prompt, reuse, purpose: 'prefill' } as const
        const blocks = action.blocks
        this.leases.set(counter, { counter, ...facts, alive: true, pins: 0, blocks, first: 0, leaving: [] })
        this.begin(sequence, action.blocks, action.cachedTokens)
        return
      }
      case 'attached': {
        const sequence = this.sequence(action.sequence)
        const lease = this.lease(sequence.counter ?? 0n)
        const blocks = [...this.core.blocks(lease.counter)]
        // What is computed again goes to a block of its own.
        if (lease.pins > 0) lease.leaving = pagesOf(lease).filter(([, block]) => !blocks.includes(block))
        lease.blocks = blocks
        this.begin(sequence, action.blocks, action.cachedTokens)
        return
      }
      case 'demote':
        for (const { hash, block } of action.blocks) {
          this.checkUntouched(block, event)
          this.contents.check([block], 0, () => hash, 16, 'A demoted block')
        }
        return
      case 'copy':
        for (const block of [...action.from, ...action.to]) this.checkUnprotected(block)
        for (const block of action.to) this.checkUntouched(block, event)
        this.contents.copy(action.from, action.to)
        for (const lease of this.leases.values()) {
          lease.blocks = lease.blocks.map((block) => action.to[action.from.indexOf(block)] ?? block)
        }
        return
      case 'kv-changed':
        for (const hash of action.stored) {
          if (this.stored.has(hash)) fail(`${hash} is stored twice`)
          this.stored.add(hash)
        }
        for (const hash of action.removed) if (!this.stored.delete(hash)) fail(`${hash} is removed twice`)
        return
      case 'lease-ended': {
        const lease = this.leases.get(action.counter)
        if (lease === undefined) return
        if (!lease.alive) fail(`Lease ${action.counter} ended twice`)
        lease.alive = false
        return
      }
      case 'sequence-ended': {
        const sequence = this.sequence(action.sequence)
        if (sequence.ended) fail(`Sequence ${action.sequence} ended twice`)
        sequence.ended = true
        const { tiers } = this.options
        const wrong = action.reads.some(({ tier, readBytes, movedBytes }, index) => {
          return tier !== tiers[index]?.name || !Number.isSafeInteger(readBytes) || !(movedBytes >= 0)
        })
        if (wrong || action.reads.length !== tiers.length) fail('A sequence does not say what it read')
        return
      }
      case 'cancel-step':
        if (this.running === undefined) fail('A step was cancelled while none ran')
        if (this.running.some(({ role }) => role === 'decode')) fail('A step with decodes was cancelled')
        this.cancelled = true
        return
      case 'run-step':
        this.observeStep(action.parts)
        return
      case 'drained':
        if (this.drained) fail('Drained twice')
        this.drained = true
        return
    }
  }

  /** A sequence has memory: what is said to be cached must be there, the rest is to come. */
  private begin(sequence: KnownSequence, blocks: readonly number[], cachedTokens: number): void {
    const { id, prompt, reuse, phase } = sequence
    sequence.computed = cachedTokens
    sequence.cached = cachedTokens
    this.contents.check(blocks, 0, labels(sequence), cachedTokens, `Sequence ${id} begins`)
    if (cachedTokens > 0 && !reuse && sequence.role !== 'attend') fail('A sequence reuses what it must not')
    let coming = prompt
    if (phase === 'waiting' || phase === 'prefilling') {
      if (cachedTokens >= prompt) fail('No token is left to compute')
      coming = this.fetchable(sequence)
      sequence.phase = coming > cachedTokens ? 'fetching' : 'prefilling'
    }
    if (coming > cachedTokens) this.contents.write(blocks, 0, arriving(sequence), cachedTokens, coming)
  }

  private observeStep(parts: readonly StepPart[]): void {
    if (this.running !== undefined) fail('Two steps run at once')
    this.running = parts
    this.cancelled = false
    const { rowsMax, chunkTokens, sharedChunkTokens } = this.options.limits
    const rows = parts.reduce((sum, { count }) => sum + count, 0)
    const decodes = parts.filter(({ role }) => role === 'decode').length
    if (parts.length === 0 || rows > rowsMax) fail(`A step has ${rows} rows`)
    if (decodes > this.options.decodeSlots) fail('More sequences decode than there are slots')
    if (rows - decodes > (decodes > 0 ? sharedChunkTokens : chunkTokens)) fail('A prefill chunk is too long')
    const uses = parts.flatMap(({ blocks }) => blocks)
    for (const part of parts) {
      const { role, blocks, firstPage, start, count } = part
      const sequence = this.sequence(part.sequence)
      if (sequence.ended) fail('A sequence that ended is in a step')
      if (sequence.phase !== (role === 'prefill' ? 'prefilling' : 'decoding')) fail('Its time has not come')
      const { offload, offloaded } = sequence
      if (role === 'decode' && offload !== undefined && !offloaded) fail('It decodes before it is offloaded')
      const away = role === 'decode' && offload?.mode === 'partial' ? offload.pages : 0
      if (firstPage !== away) fail(`A step has pages from ${firstPage} on instead of ${away}`)
      if (start !== sequence.computed) fail('A step leaves a hole')
      if ((firstPage + blocks.length) * 16 < start + count) fail('A step has too few blocks')
      this.contents.check(blocks, firstPage, labels(sequence), start, `Sequence ${sequence.id} runs`)
      this.contents.write(blocks, firstPage, labels(sequence), start, start + count)
      for (const block of blocks.slice(Math.floor(start / 16) - firstPage)) {
        if (uses.indexOf(block) !== uses.lastIndexOf(block)) fail(`Block ${block} is written to and shared`)
      }
    }
  }

  /** What is used is exactly what alive leases hold and what ended ones still pin; only equal content is shared. */
  private checkMemory(): void {
    const owners = new Map<number, { label: string; reuse: boolean }>()
    const inStep = new Set(this.running?.map(({ sequence }) => this.sequences.get(sequence)?.counter) ?? [])
    for (const lease of this.leases.values()) {
      if (lease.alive) this.refresh(lease)
      const touched = lease.pins > 0 || inStep.has(lease.counter)
      if (!touched) lease.leaving = []
      if (!lease.alive && !touched) {
        this.leases.delete(lease.counter)
        continue
      }
      for (const [page, block] of [...lease.leaving, ...pagesOf(lease)]) {
        const label = pageLabel(lease.text, page)
        const other = owners.get(block)
        owners.set(block, { label, reuse: lease.reuse })
        const shares = lease.reuse && other?.reuse === true && other.label === label && this.stored.has(label)
        if (other !== undefined && !shares) fail(`Block ${block} has two owners`)
      }
    }
    const load = this.core.load()
    if (load.usedBlocks !== owners.size) fail(`${load.usedBlocks} blocks are used, not ${owners.size}`)
    for (const { capacityBlocks, leasedBlocks, cachedBlocks, lookups, hits } of load.tiers) {
      if (leasedBlocks + cachedBlocks > capacityBlocks) fail('More blocks are used than there are')
      if (hits > lookups) fail('More was found than looked for')
    }
    const hashes = [...this.core.storedHashes()]
    if (hashes.length !== this.stored.size || hashes.some((hash) => !this.stored.has(hash)))
      fail('What was told of stored blocks is not what is stored')
    if (load.decodeSlotsUsed > this.options.decodeSlots) fail('More slots are used than there are')
    if (load.sequences !== this.unendedSequences) fail('Sequences were lost or invented')
  }

  /** Its blocks now. Only a sequence that another device attends to loses its first ones. */
  private refresh(lease: KnownLease): void {
    const blocks = [...this.core.blocks(lease.counter)]
    const sequence = [...this.sequences.values()].find(({ counter }) => counter === lease.counter)
    if (lease.blocks.length > 0 && blocks[0] !== lease.blocks[0]) {
      const { offload, offloaded } = sequence ?? fail('A lease lost its first block')
      if (offload?.mode !== 'partial' || !offloaded || lease.first > 0) fail('A lease lost its first block')
      if (lease.pins > 0) lease.leaving = [...lease.leaving, ...pagesOf(lease).slice(0, offload.pages)]
      lease.first = offload.pages
    }
    lease.blocks = blocks
  }

  /** Pinned, lent, in the running step, or being received. */
  private checkUnprotected(block: number): void {
    const lent = [...this.loans.values()].some((blocks) => blocks.includes(block))
    const runs = this.running?.some(({ blocks }) => blocks.includes(block)) === true
    const touched = [...this.leases.values()].some(({ counter, pins, blocks, leaving }) => {
      const receives = [...this.sequences.values()].some((sequence) => {
        if (sequence.counter !== counter || sequence.ended) return false
        const { phase, computed, prompt } = sequence
        return phase === 'receiving' || phase === 'fetching' || (phase === 'attending' && computed < prompt)
      })
      const held = blocks.includes(block) || leaving.some(([, own]) => own === block)
      return (pins > 0 || receives) && held
    })
    if (lent || runs || touched) fail(`Block ${block} leaves its place while it is in use`)
  }

  /** Nobody holds it either; but for a lease that gives blocks back with this very event. */
  private checkUntouched(block: number, event: CoreEvent): void {
    this.checkUnprotected(block)
    const sequences = [...this.sequences.values()]
    const held = [...this.leases.values()].some((lease) => {
      if (!lease.alive || !lease.blocks.includes(block)) return false
      if (event.type === 'decode' && event.lease.counter === lease.counter) return false
      return !sequences.some(({ counter, offload }) => counter === lease.counter && offload !== undefined)
    })
    if (held) fail(`Block ${block} is taken from a lease`)
  }

  private lease(counter: bigint): KnownLease {
    return this.leases.get(counter) ?? fail(`Lease ${counter} is unknown`)
  }

  private sequence(id: number): KnownSequence {
    return this.sequences.get(id) ?? fail(`Sequence ${id} is unknown`)
  }
}
