/**
 * Decides everything within one device: what is leased, which rows the next step runs,
 * who waits, who gives way, what ends.
 *
 * It is deterministic: `step(event, nowMs)` returns what the shell has to do, in order,
 * and depends on the events so far alone. It never does anything by itself.
 *
 * Invariants:
 * C1 Memory is used only under a lease issued here (I1); never more than the tier holds.
 * C2 A sequence that was taken in ends exactly once, and then holds nothing.
 * C3 One step runs at a time; whenever there are rows to run and none runs, one is started.
 * C4 A newer placement of a request ends what an older one holds; an older one is refused.
 * C5 The waiting queue is bounded, first come first served; whoever waits holds nothing.
 */
import { BLOCK_TOKENS } from './block-allocator.js'
import { ensureRoom } from './decode-room.js'
import { DeviceState, type Sequence } from './device-state.js'
import type { CoreAction, CoreEvent, CoreLoad, Refusal } from './events.js'
import { leaseRefusal, type Placement, placementRefusal } from './placement-rules.js'
import { StepCosts } from './step-costs.js'
import { planRows, type StepLimits } from './step-planner.js'

export interface CoreOptions {
  readonly deviceId: string
  readonly incarnation: bigint
  readonly leaseTtlMs: number
  /** Blocks of the tier; never exceeded. */
  readonly capacityBlocks: number
  /** Sequences decoded at once, reserved ones included. */
  readonly decodeSlots: number
  /** Prefills that may wait for memory. */
  readonly waitingMax: number
  /** Longest sequence the model takes, tokens. */
  readonly contextTokensMax: number
  readonly limits: StepLimits
}

type Event<Type extends CoreEvent['type']> = Extract<CoreEvent, { type: Type }>

export class AgentCore {
  private readonly state: DeviceState
  private readonly costs = new StepCosts()
  private draining = false
  private drained = false

  constructor(private readonly options: CoreOptions) {
    const { deviceId, incarnation, leaseTtlMs } = options
    this.state = new DeviceState({ deviceId, incarnation, ttlMs: leaseTtlMs }, options.capacityBlocks)
  }

  step(event: CoreEvent, nowMs: number): CoreAction[] {
    for (const counter of this.state.leases.expired(nowMs)) this.state.endLease(counter, 'cancelled')
    const refusal = this.handle(event, nowMs)
    if (refusal !== undefined) this.state.emit({ type: 'refused', reason: refusal })
    this.startNextStep(nowMs)
    this.reportDrained()
    return this.state.takeActions()
  }

  load(): CoreLoad {
    const { state } = this
    let prefillTokensWaiting = 0
    for (const { phase, promptTokens, computedTokens } of state.sequences.values()) {
      if (phase === 'waiting' || phase === 'prefilling') prefillTokensWaiting += promptTokens - computedTokens
    }
    return {
      decodeSlotsUsed: state.decodeSlotsUsed,
      prefillTokensWaiting,
      usedBlocks: state.memory.usedBlocks,
      leases: state.leases.aliveCount,
      sequences: state.sequences.size,
      draining: this.draining,
    }
  }

  /** Blocks of a living lease; they may have grown since it was granted. */
  blocks(counter: bigint): readonly number[] {
    return this.state.memory.blocks(counter)
  }

  /** Why the event is refused, if it is. */
  private handle(event: CoreEvent, nowMs: number): Refusal | undefined {
    switch (event.type) {
      case 'reserve':
        return this.reserve(event, nowMs)
      case 'extend':
        return this.extend(event, nowMs)
      case 'release':
        return this.release(event)
      case 'prefill':
        return this.prefill(event)
      case 'decode':
        return this.decode(event)
      default:
        this.proceed(event)
        return undefined
    }
  }

  /** What cannot be refused: the progress of work that was taken in. */
  private proceed(
    event: Exclude<CoreEvent, Event<'reserve' | 'extend' | 'release' | 'prefill' | 'decode'>>,
  ): void {
    const { state } = this
    switch (event.type) {
      case 'received':
        this.received(event)
        break
      case 'sent':
      case 'end': {
        const sequence = state.sequences.get(event.sequence)
        if (sequence !== undefined) state.endSequence(sequence, event.type === 'sent' ? 'sent' : event.cause)
        break
      }
      case 'pin':
        state.memory.pin(event.counter)
        break
      case 'unpin':
        state.memory.unpin(event.counter)
        break
      case 'step-finished':
        this.stepFinished(event)
        break
      case 'step-failed':
        for (const { sequence: id } of state.finishStep()) {
          const sequence = state.sequences.get(id)
          if (sequence !== undefined) state.endSequence(sequence, 'failed')
        }
        break
      case 'drain':
        this.draining = true
        for (const sequence of this.waiting()) state.endSequence(sequence, 'draining')
        break
      case 'end-all':
        for (const sequence of [...state.sequences.values()]) state.endSequence(sequence, 'draining')
        for (const counter of [...state.facts.keys()]) state.endLease(counter, 'draining')
        break
      case 'tick':
        break
    }
  }

  private reserve({ requestId, epoch, tokens }: Event<'reserve'>, nowMs: number): Refusal | undefined {
    const refusal = this.refusePlacement({ role: 'decode', requestId, epoch, tokens })
    if (refusal !== undefined) return refusal
    if (this.state.decodeSlotsUsed >= this.options.decodeSlots) return 'slots'
    const owner = { role: 'decode', requestId, epoch, sequence: undefined } as const
    const counter = this.state.lease(owner, tokens, nowMs)
    if (counter === undefined) return 'memory'
    this.grant(counter)
    return undefined
  }

  private extend({ lease, tokens }: Event<'extend'>, nowMs: number): Refusal | undefined {
    const refusal = leaseRefusal(this.state, lease)
    if (refusal !== undefined) return refusal
    if (!this.state.memory.couldEverFit(tokens)) return 'too-large'
    if (!this.state.memory.extend(lease.counter, tokens)) return 'memory'
    this.state.leases.renew(lease.counter, nowMs)
    this.grant(lease.counter)
    return undefined
  }

  private release({ lease }: Event<'release'>): Refusal | undefined {
    const refusal = leaseRefusal(this.state, lease)
    if (refusal !== undefined && refusal !== 'lease-ended') return refusal
    if (refusal === undefined) this.state.endLease(lease.counter, 'released')
    this.state.emit({ type: 'released', wasAlive: refusal === undefined })
    return undefined
  }

  private prefill({ sequence, requestId, epoch, promptTokens }: Event<'prefill'>): Refusal | undefined {
    const refusal = this.refusePlacement({ role: 'prefill', requestId, epoch, tokens: promptTokens })
    if (refusal !== undefined) return refusal
    if (this.waiting().length >= this.options.waitingMax) return 'queue-full'
    this.state.sequences.set(sequence, {
      id: sequence,
      role: 'prefill',
      requestId,
      epoch,
      promptTokens,
      firstIndex: 0,
      roomTokensMax: promptTokens,
      sampleTokensMax: 1,
      counter: undefined,
      phase: 'waiting',
      computedTokens: 0,
      sampledTokens: 0,
    })
    return undefined
  }

  private decode(event: Event<'decode'>): Refusal | undefined {
    const { sequence, lease, requestId, epoch, promptTokens, firstIndex, tokensMax, kv } = event
    const refusal = leaseRefusal(this.state, lease)
    if (refusal !== undefined) return refusal
    const facts = this.state.facts.get(lease.counter)
    if (facts?.role !== 'decode' || facts.requestId !== requestId || facts.epoch !== epoch) {
      return 'lease-mismatch'
    }
    if (facts.sequence !== undefined) return 'duplicate'
    if (!this.state.memory.couldEverFit(promptTokens)) return 'too-large'
    if (!this.state.memory.extend(lease.counter, promptTokens)) return 'memory'
    facts.sequence = sequence
    this.state.leases.use(lease.counter)
    this.state.sequences.set(sequence, {
      id: sequence,
      role: 'decode',
      requestId,
      epoch,
      promptTokens,
      firstIndex,
      roomTokensMax: Math.min(promptTokens + tokensMax - firstIndex, this.options.contextTokensMax),
      sampleTokensMax: Math.min(tokensMax - firstIndex, this.options.contextTokensMax - promptTokens),
      counter: lease.counter,
      phase: kv === 'pulled' ? 'receiving' : 'prefilling',
      computedTokens: 0,
      sampledTokens: 0,
    })
    this.state.emit({ type: 'attached', sequence, blocks: [...this.state.memory.blocks(lease.counter)] })
    return undefined
  }

  private received({ sequence: id, stopped }: Event<'received'>): void {
    const sequence = this.state.sequences.get(id)
    if (sequence?.phase !== 'receiving') return
    sequence.computedTokens = sequence.promptTokens
    this.sampled(sequence, stopped)
  }

  private stepFinished({ cancelled, stopped, elapsedUs }: Event<'step-finished'>): void {
    const parts = this.state.finishStep()
    if (!cancelled) this.costs.ran(parts, elapsedUs)
    for (const part of parts) {
      const sequence = this.state.sequences.get(part.sequence)
      if (cancelled || sequence === undefined) continue
      if (part.role === 'prefill') sequence.computedTokens += part.count
      if (!part.wantLogits) continue
      if (sequence.role === 'prefill') sequence.phase = 'computed'
      else this.sampled(sequence, stopped.includes(sequence.id))
    }
  }

  /** A sequence has one more token, which may be its last. */
  private sampled(sequence: Sequence, stopped: boolean): void {
    sequence.sampledTokens += 1
    if (stopped) this.state.endSequence(sequence, 'stop')
    else if (sequence.sampledTokens >= sequence.sampleTokensMax) this.state.endSequence(sequence, 'length')
    else sequence.phase = 'decoding'
  }

  /** Decodes first make sure of their room, then waiting prefills come in, then the rows are chosen. */
  private startNextStep(nowMs: number): void {
    const decodes = this.state.running === undefined ? this.decodesWithRoom() : []
    this.admitWaiting(nowMs)
    if (this.state.running !== undefined) return
    const prefills = [...this.state.sequences.values()]
      .filter(({ phase }) => phase === 'prefilling')
      .map(({ id, computedTokens, promptTokens }) => ({ sequence: id, computedTokens, promptTokens }))
    const { limits } = this.options
    const sharedChunkTokens = this.costs.sharedChunkTokens(limits)
    const rows = planRows(prefills, decodes, { ...limits, sharedChunkTokens })
    if (rows.length === 0) return
    this.state.startStep(
      rows.map((row) => {
        const counter = this.state.sequences.get(row.sequence)?.counter ?? 0n
        const blocks = Math.ceil((row.start + row.count) / BLOCK_TOKENS)
        return { ...row, blocks: this.state.memory.blocks(counter).slice(0, blocks) }
      }),
    )
  }

  private decodesWithRoom(): { sequence: number; position: number }[] {
    const candidates = [...this.state.sequences.values()].filter(({ phase }) => phase === 'decoding')
    const fitting = candidates.filter((sequence) => {
      // A sequence preempted for the sake of an older one is not asked any more.
      if (!this.state.sequences.has(sequence.id) || sequence.counter === undefined) return false
      return ensureRoom(this.state, sequence, sequence.counter)
    })
    return fitting
      .filter(({ id }) => this.state.sequences.has(id))
      .map(({ id, promptTokens, sampledTokens }) => ({
        sequence: id,
        position: promptTokens + sampledTokens - 1,
      }))
  }

  private admitWaiting(nowMs: number): void {
    for (const sequence of this.waiting()) {
      const { id, requestId, epoch, promptTokens } = sequence
      const counter = this.state.lease(
        { role: 'prefill', requestId, epoch, sequence: id },
        promptTokens,
        nowMs,
      )
      // First come, first served: nobody overtakes a long prompt, or it would wait for ever.
      if (counter === undefined) return
      const tokensAhead = this.load().prefillTokensWaiting - this.waitingTokens()
      sequence.counter = counter
      sequence.phase = 'prefilling'
      const blocks = [...this.state.memory.blocks(counter)]
      this.state.emit({ type: 'admitted', sequence: id, counter, blocks, tokensAhead })
    }
  }

  private waiting(): Sequence[] {
    return [...this.state.sequences.values()].filter(({ phase }) => phase === 'waiting')
  }

  private waitingTokens(): number {
    return this.waiting().reduce((sum, { promptTokens }) => sum + promptTokens, 0)
  }

  private refusePlacement(placement: Placement): Refusal | undefined {
    return this.draining ? 'draining' : placementRefusal(this.state, placement)
  }

  private grant(counter: bigint): void {
    const tokens = this.state.memory.blocks(counter).length * BLOCK_TOKENS
    this.state.emit({ type: 'granted', counter, tokens })
  }

  private reportDrained(): void {
    const { state } = this
    const busy = state.sequences.size > 0 || state.leases.aliveCount > 0 || state.memory.usedBlocks > 0
    if (!this.draining || this.drained || busy || state.running !== undefined) return
    this.drained = true
    state.emit({ type: 'drained' })
  }
}
