/**
 * Decides everything within one device: what is leased, which rows the next step runs,
 * who waits, who gives way, what stays in memory for others, what moves between tiers, what ends.
 *
 * It is deterministic: `step(event, nowMs)` returns what the shell has to do, in order,
 * and depends on the events so far alone. It never does anything by itself.
 *
 * Invariants:
 * C1 Memory is used only under a lease issued here (I1); never more than the tiers hold.
 * C2 A sequence that was taken in ends exactly once, and then holds nothing.
 * C3 One step runs at a time; whenever there are rows to run and none runs, one is started.
 * C4 A newer placement of a request ends what an older one holds; an older one is refused.
 * C5 The waiting queue is bounded, first come first served; whoever waits holds nothing.
 * C6 Reuse changes no token: only full blocks are shared, only under the hash of their content and
 *    all before it, and nobody writes to them.
 */
import type { CoreOptions } from './core-options.js'
import { DeviceState } from './device-state.js'
import type { CoreAction, CoreEvent, CoreLoad, Refusal } from './events.js'
import * as intake from './intake.js'
import { prefillTokens, startNextStep } from './next-step.js'
import * as progress from './progress.js'
import { sayRepeatLess } from './repeatable-steps.js'
import { TierMover } from './tier-mover.js'

/** Events that are answered, or refused. */
type Asking = Extract<
  CoreEvent,
  { type: 'reserve' | 'extend' | 'release' | 'prefill' | 'decode' | 'attend' | 'push' }
>

export class AgentCore {
  private readonly state: DeviceState
  private readonly mover: TierMover
  private drained = false

  constructor(options: CoreOptions) {
    this.state = new DeviceState(options)
    this.mover = new TierMover(options)
  }

  step(event: CoreEvent, nowMs: number): CoreAction[] {
    const { state } = this
    const steps = event.type === 'step-finished' ? (event.steps ?? 1) : 1
    if (steps > 1) {
      progress.ranAsOne(state, steps)
      this.mover.rest(steps - 1)
    }
    for (const counter of state.leases.expired(nowMs)) state.endLease(counter, 'cancelled')
    const refusal = this.handle(event, nowMs)
    if (refusal !== undefined) state.emit({ type: 'refused', reason: refusal })
    startNextStep(state, this.mover, nowMs)
    if (event.type !== 'step-finished') sayRepeatLess(state, this.mover)
    this.reportDrained()
    return state.takeActions()
  }

  load(): CoreLoad {
    const { state } = this
    const { table } = state.memory
    return {
      decodeSlotsUsed: state.decodeSlotsUsed,
      prefillTokensWaiting: prefillTokens(state, 'all'),
      usedBlocks: table.heldBlocks,
      leases: state.leases.aliveCount,
      sequences: state.sequences.size,
      draining: state.draining,
      tiers: state.counters.load((tier, capacityBlocks) => {
        const cachedBlocks = table.cachedIn(tier)
        return { cachedBlocks, leasedBlocks: capacityBlocks - table.freeIn(tier) - cachedBlocks }
      }),
    }
  }

  /** When the first of the leases that nobody uses expires; infinite where there is none. */
  get nextExpiryMs(): number {
    return this.state.leases.nextExpiryMs
  }

  /**
   * Blocks of a living lease, now: they may have grown since it was granted, been moved between tiers, or
   * begin with a later page where the first ones were given up.
   */
  blocks(counter: bigint): readonly number[] {
    return this.state.memory.blocks(counter)
  }

  /** Hashes of all full blocks that can be lent, held ones included. */
  storedHashes(): Iterable<string> {
    return this.state.memory.table.storedHashes()
  }

  /** Why the event is refused, if it is. */
  private handle(event: CoreEvent, nowMs: number): Refusal | undefined {
    const { state } = this
    switch (event.type) {
      case 'reserve':
        return intake.reserve(state, event, nowMs)
      case 'extend':
        return intake.extend(state, event, nowMs)
      case 'release':
        return intake.release(state, event)
      case 'prefill':
        return intake.prefill(state, event)
      case 'decode':
        return intake.decode(state, event)
      case 'attend':
        return intake.attend(state, event)
      case 'push':
        return intake.push(state, event)
      default:
        this.proceed(event)
        return undefined
    }
  }

  /** What cannot be refused: the progress of work that was taken in, and the care of the cache. */
  private proceed(event: Exclude<CoreEvent, Asking>): void {
    const { state } = this
    switch (event.type) {
      case 'fetched':
        progress.fetched(state, event)
        break
      case 'received':
        progress.received(state, event)
        break
      case 'sent':
        progress.sent(state, event)
        break
      case 'held':
        progress.held(state, event)
        break
      case 'offloaded':
        progress.offloaded(state, event)
        break
      case 'reads':
        progress.attendReads(state, event)
        break
      case 'step-finished':
        progress.stepFinished(state, event)
        break
      case 'step-failed':
        progress.stepFailed(state)
        break
      case 'end': {
        const sequence = state.sequences.get(event.sequence)
        if (sequence !== undefined) state.endSequence(sequence, event.cause)
        break
      }
      case 'pin':
        state.memory.pin(event.counter)
        break
      case 'unpin':
        state.memory.unpin(event.counter)
        break
      case 'lend':
        progress.lend(state, event)
        break
      case 'return':
        state.memory.return(event.loan)
        break
      case 'evict':
        state.emit({ type: 'evicted', blocks: state.evictAll(event.drop) })
        break
      case 'drain':
        this.drain()
        break
      case 'end-all':
        for (const sequence of [...state.sequences.values()]) state.endSequence(sequence, 'draining')
        for (const counter of [...state.facts.keys()]) state.endLease(counter, 'draining')
        break
      case 'tick':
        break
    }
  }

  private drain(): void {
    this.state.draining = true
    for (const sequence of [...this.state.inPhase.waiting.all]) this.state.endSequence(sequence, 'draining')
  }

  private reportDrained(): void {
    const { state } = this
    if (!state.draining || this.drained || state.running !== undefined) return
    if (state.sequences.size > 0 || state.leases.aliveCount > 0 || state.memory.table.heldBlocks > 0) return
    this.drained = true
    state.emit({ type: 'drained' })
  }
}
