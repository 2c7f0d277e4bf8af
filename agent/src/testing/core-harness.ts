/**
 * Stands in for the shell around an AgentCore and checks, after every event, what must
 * hold whatever happens: it keeps its own books and compares.
 */
import { AgentCore, type CoreOptions } from '../core/agent-core.js'
import type { CoreAction, CoreEvent, StepPart } from '../core/events.js'

export type Operation =
  | { readonly type: 'reserve'; readonly request: number; readonly epoch: number; readonly tokens: number }
  | { readonly type: 'prefill'; readonly request: number; readonly epoch: number; readonly tokens: number }
  | {
      readonly type: 'decode'
      readonly lease: number
      readonly tokens: number
      readonly tokensMax: number
      readonly pulled: boolean
    }
  | { readonly type: 'extend'; readonly lease: number; readonly tokens: number }
  | {
      readonly type: 'release' | 'pin' | 'unpin' | 'received' | 'sent' | 'cancel'
      readonly pick: number
    }
  | { readonly type: 'finish-step'; readonly stops: boolean; readonly fails: boolean }
  | { readonly type: 'wait'; readonly elapsedMs: number }
  | { readonly type: 'drain' }

interface KnownLease {
  readonly counter: bigint
  readonly requestId: string
  readonly epoch: number
  alive: boolean
  pins: number
  blocks: readonly number[]
}

interface KnownSequence {
  readonly id: number
  counter: bigint | undefined
  ended: boolean
  computed: number
  promptTokens: number
  pulled: boolean
}

function fail(message: string): never {
  throw new Error(message)
}

export class CoreHarness {
  readonly core: AgentCore
  drained = false
  private nowMs = 0
  private nextSequence = 1
  private readonly leases = new Map<bigint, KnownLease>()
  private readonly sequences = new Map<number, KnownSequence>()
  private running: readonly StepPart[] | undefined
  private cancelled = false

  constructor(private readonly options: CoreOptions) {
    this.core = new AgentCore(options)
  }

  run(operation: Operation): void {
    switch (operation.type) {
      case 'reserve': {
        const requestId = `request-${operation.request}`
        const event = {
          type: 'reserve',
          requestId,
          epoch: operation.epoch,
          tokens: operation.tokens,
        } as const
        this.apply(event)
        return
      }
      case 'prefill': {
        const id = this.nextSequence++
        const requestId = `request-${operation.request}`
        this.sequences.set(id, this.sequence(id, operation.tokens, false))
        const { epoch, tokens: promptTokens } = operation
        this.apply({ type: 'prefill', sequence: id, requestId, epoch, promptTokens })
        return
      }
      case 'decode': {
        const lease = this.pick([...this.leases.values()], operation.lease)
        if (lease === undefined) return
        const id = this.nextSequence++
        const wasAlive = lease.alive
        const sequence = this.sequence(id, operation.tokens, operation.pulled)
        sequence.counter = lease.counter
        this.sequences.set(id, sequence)
        const actions = this.apply({
          type: 'decode',
          sequence: id,
          lease: this.reference(lease.counter),
          requestId: lease.requestId,
          epoch: lease.epoch,
          promptTokens: operation.tokens,
          firstIndex: 0,
          tokensMax: operation.tokensMax,
          kv: operation.pulled ? 'pulled' : 'computed',
        })
        if (!wasAlive && actions.some(({ type }) => type === 'attached')) fail('A dead lease was used')
        return
      }
      case 'extend': {
        const lease = this.pick([...this.leases.values()], operation.lease)
        if (lease === undefined) return
        this.apply({ type: 'extend', lease: this.reference(lease.counter), tokens: operation.tokens })
        return
      }
      case 'release': {
        const lease = this.pick([...this.leases.values()], operation.pick)
        if (lease !== undefined) this.apply({ type: 'release', lease: this.reference(lease.counter) })
        return
      }
      case 'pin': {
        const lease = this.pick(
          [...this.leases.values()].filter(({ alive }) => alive),
          operation.pick,
        )
        if (lease === undefined) return
        lease.pins += 1
        this.apply({ type: 'pin', counter: lease.counter })
        return
      }
      case 'unpin': {
        const lease = this.pick(
          [...this.leases.values()].filter(({ pins }) => pins > 0),
          operation.pick,
        )
        if (lease === undefined) return
        lease.pins -= 1
        this.apply({ type: 'unpin', counter: lease.counter })
        return
      }
      case 'received':
      case 'sent':
      case 'cancel': {
        const sequence = this.pick([...this.sequences.values()], operation.pick)
        if (sequence === undefined) return
        if (operation.type === 'received')
          this.apply({ type: 'received', sequence: sequence.id, stopped: false })
        else if (operation.type === 'sent') this.apply({ type: 'sent', sequence: sequence.id })
        else this.apply({ type: 'end', sequence: sequence.id, cause: 'cancelled' })
        return
      }
      case 'finish-step':
        this.finishStep(operation.stops, operation.fails)
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
    for (const lease of this.leases.values()) {
      while (lease.pins > 0) {
        lease.pins -= 1
        this.apply({ type: 'unpin', counter: lease.counter })
      }
    }
    this.finishStep(false, false)
  }

  get unendedSequences(): number {
    return [...this.sequences.values()].filter(({ ended }) => !ended).length
  }

  private finishStep(stops: boolean, fails: boolean): void {
    const parts = this.running
    if (parts === undefined) return
    this.running = undefined
    const cancelled = this.cancelled
    if (fails) {
      this.apply({ type: 'step-failed' })
      return
    }
    for (const part of parts) {
      const sequence = this.sequences.get(part.sequence)
      if (sequence !== undefined && !cancelled) sequence.computed += part.count
    }
    const stopped = stops ? parts.filter(({ wantLogits }) => wantLogits).map(({ sequence }) => sequence) : []
    // As long as a device on which rows are what costs.
    const elapsedUs = parts.reduce((sum, { count }) => sum + count, 0) * 1_000
    this.apply({ type: 'step-finished', cancelled, stopped, elapsedUs })
  }

  private apply(event: CoreEvent): readonly CoreAction[] {
    const actions = this.core.step(event, this.nowMs)
    for (const action of actions) {
      if (action.type === 'granted' && event.type === 'reserve')
        this.learn(action.counter, event.requestId, event.epoch)
      if (action.type === 'refused' && (event.type === 'prefill' || event.type === 'decode')) {
        this.sequences.delete(event.sequence)
      }
      this.observe(action)
    }
    this.checkMemory()
    return actions
  }

  private observe(action: CoreAction): void {
    switch (action.type) {
      case 'admitted': {
        const sequence = this.sequences.get(action.sequence) ?? fail('An unknown sequence was admitted')
        sequence.counter = action.counter
        this.learn(action.counter, '', 0)
        return
      }
      case 'lease-ended': {
        const lease = this.leases.get(action.counter)
        if (lease === undefined) return
        if (!lease.alive) fail(`Lease ${action.counter} ended twice`)
        lease.alive = false
        return
      }
      case 'sequence-ended': {
        const sequence = this.sequences.get(action.sequence) ?? fail('An unknown sequence ended')
        if (sequence.ended) fail(`Sequence ${action.sequence} ended twice`)
        sequence.ended = true
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
    const seen = new Set<number>()
    for (const part of parts) {
      const sequence = this.sequences.get(part.sequence) ?? fail('An unknown sequence is in a step')
      if (sequence.ended) fail('A sequence that ended is in a step')
      if (part.role === 'prefill' && part.start !== sequence.computed) fail('A prefill chunk leaves a hole')
      if (part.blocks.length * 16 < part.start + part.count) fail('A step has too few blocks')
      for (const block of part.blocks) {
        if (seen.has(block)) fail(`Block ${block} is in a step twice`)
        seen.add(block)
      }
    }
  }

  /** What is used is exactly what alive leases hold and what ended ones still pin. */
  private checkMemory(): void {
    const seen = new Set<number>()
    const inStep = new Set(this.running?.map(({ sequence }) => this.sequences.get(sequence)?.counter) ?? [])
    let used = 0
    for (const lease of this.leases.values()) {
      if (lease.alive) lease.blocks = this.core.blocks(lease.counter)
      if (!lease.alive && lease.pins === 0 && !inStep.has(lease.counter)) {
        this.leases.delete(lease.counter)
        continue
      }
      for (const block of lease.blocks) {
        if (seen.has(block)) fail(`Block ${block} has two owners`)
        seen.add(block)
      }
      used += lease.blocks.length
    }
    const load = this.core.load()
    if (load.usedBlocks !== used) fail(`${load.usedBlocks} blocks are used, ${used} are accounted for`)
    if (used > this.options.capacityBlocks) fail('More blocks are used than there are')
    if (load.decodeSlotsUsed > this.options.decodeSlots) fail('More slots are used than there are')
    if (load.sequences !== this.unendedSequences) fail('Sequences were lost or invented')
  }

  private learn(counter: bigint, requestId: string, epoch: number): void {
    if (this.leases.has(counter)) return
    this.leases.set(counter, {
      counter,
      requestId,
      epoch,
      alive: true,
      pins: 0,
      blocks: this.core.blocks(counter),
    })
  }

  private sequence(id: number, promptTokens: number, pulled: boolean): KnownSequence {
    return { id, counter: undefined, ended: false, computed: 0, promptTokens, pulled }
  }

  private reference(counter: bigint) {
    return { deviceId: this.options.deviceId, incarnation: this.options.incarnation, counter }
  }

  private pick<T>(items: readonly T[], index: number): T | undefined {
    return items.length === 0 ? undefined : items[index % items.length]
  }
}
