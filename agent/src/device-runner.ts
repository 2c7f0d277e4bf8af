/**
 * Joins the agent core to the driver: carries out what the core decides, samples
 * tokens, and tells each sequence's owner what became of it.
 *
 * Not its job: gRPC, transfers, spans. The owner of a sequence is a `SequenceOwner`.
 *
 * Invariants:
 * R1 Owners are called synchronously, never wait, and never stall a step: the next step
 *    is with the driver before the tokens of the last one are handed out.
 * R2 An owner hears `ended` once, after all its tokens, and nothing after that.
 * R3 What the core has the driver do, and what it says of its blocks, is passed on in the core's order and
 *    before anybody else hears of the event: whoever is told may bring about the next event, whose steps may
 *    use the blocks just emptied, and which may remove what was stored just now.
 */
import type { DriverModel, StepResult, StepSequence } from '@kvasir/engine/device-driver'
import { type SampledToken, sampleToken } from '@kvasir/engine/sampler'
import type { Clock } from '@kvasir/runtime/clock'
import { type Deferred, deferred } from '@kvasir/runtime/deferred'
import { InternalError, KvasirError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import type { AgentCore } from './core/agent-core.js'
import type { CoreAction, CoreEvent, CoreLoad, PageUse, Refusal, StepPart } from './core/events.js'
import { promptShares } from './core/prompt-shares.js'
import type { SequenceOwner, SequenceStart } from './sequence-owner.js'

interface RunningSequence extends SequenceStart {
  readonly promptTokens: number
  begun: boolean
  error: KvasirError | undefined
}

/** What the core answered to an event that asks something; each event has one at most. */
export type Answer =
  | Extract<CoreAction, { type: 'granted' | 'released' | 'attached' | 'lent' | 'evicted' }>
  | undefined

type Demoted = Extract<CoreAction, { type: 'demote' }>['blocks']
type FirstAction = Extract<
  CoreAction,
  { type: 'demote' | 'copy' | 'run-step' | 'cancel-step' | 'kv-changed' }
>

export class RefusedByCore extends Error {
  constructor(readonly reason: Refusal) {
    super(reason)
  }
}

export interface RunnerParts {
  readonly core: AgentCore
  readonly driver: DriverModel
  /** Blocks leave the cache: must issue their reads before it returns. */
  readonly demote: (blocks: Demoted) => void
  /** The set of full blocks held has changed. */
  readonly kvChanged: (stored: readonly string[], removed: readonly string[]) => void
  /** Whether the core wants to know what attention reads, for it has tiers to choose between. */
  readonly trackPages: boolean
  readonly clock: Clock
  readonly log: Logger
  /** Longest step. */
  readonly stepMs: number
  /** Steps in a row failed, or one does not end: the device is taken for broken. */
  readonly onBroken: (error: KvasirError) => void
}

/** One failed step may be the fault of a sequence; so many in a row are not. */
const FAILED_STEPS_MAX = 3

export class DeviceRunner {
  /** Time of the last step on the device; 0 before the first. */
  lastStepUs = 0
  private readonly sequences = new Map<number, RunningSequence>()
  private nextId = 1
  /** The driver has a step; false already while its result is looked at. */
  private stepping = false
  private readonly drained: Deferred<void> = deferred()
  private failedSteps = 0

  constructor(private readonly parts: RunnerParts) {}

  newSequenceId(): number {
    return this.nextId++
  }

  load(): CoreLoad {
    return this.parts.core.load()
  }

  /** Blocks of a living lease, in the order of the sequence. They may move while nothing pins them. */
  blocks(counter: bigint): readonly number[] {
    return this.parts.core.blocks(counter)
  }

  /** Throws RefusedByCore where the core refuses the event. */
  apply(event: CoreEvent): Answer {
    return this.performAll(this.parts.core.step(event, this.parts.clock.nowMs()))
  }

  /** Registers the sequence, then applies the event that brings it in. Throws RefusedByCore, with nothing left behind. */
  begin(
    start: SequenceStart,
    event: Extract<CoreEvent, { type: 'prefill' | 'decode' | 'attend' | 'push' }>,
  ): Answer {
    const promptTokens = start.tokens.length
    this.sequences.set(start.id, { ...start, promptTokens, begun: false, error: undefined })
    try {
      return this.apply(event)
    } catch (error) {
      this.sequences.delete(start.id)
      throw error
    }
  }

  /** Its stream is gone. Nothing happens where it has ended already. */
  cancel(id: number): void {
    this.apply({ type: 'end', sequence: id, cause: 'cancelled' })
  }

  /** Its work failed; the owner hears `ended('failed', error)`. */
  fail(id: number, error: KvasirError): void {
    const sequence = this.sequences.get(id)
    if (sequence === undefined) return
    sequence.error = error
    this.apply({ type: 'end', sequence: id, cause: 'failed' })
  }

  /** The prompt's KV came from another device, which sampled `firstToken`. */
  received(id: number, firstToken: number): void {
    const sequence = this.sequences.get(id)
    if (sequence === undefined) return
    const token = sequence.replay?.[0] ?? firstToken
    sequence.tokens.push(token)
    this.apply({ type: 'received', sequence: id, stopped: sequence.stopTokens.has(token) })
  }

  /** Refuses new work; resolves when all that runs has ended, by itself or at the deadline. */
  async drain(deadlineMs: number): Promise<void> {
    const timer = setTimeout(() => this.apply({ type: 'end-all' }), deadlineMs)
    this.apply({ type: 'drain' })
    await this.drained.promise
    clearTimeout(timer)
  }

  private performAll(actions: readonly CoreAction[]): Answer {
    this.performFirst(actions)
    return this.performRest(actions)
  }

  /** Carries out what concerns the driver and the blocks (R3). */
  private performFirst(actions: readonly CoreAction[]): void {
    for (const action of actions) if (comesFirst(action)) this.performFirstAction(action)
  }

  private performFirstAction(action: FirstAction): void {
    switch (action.type) {
      case 'demote':
        this.parts.demote(action.blocks)
        break
      case 'copy':
        this.copy(action.from, action.to)
        break
      case 'run-step':
        void this.runStep(action.parts)
        break
      case 'cancel-step':
        if (this.stepping) this.parts.driver.cancelStep()
        break
      case 'kv-changed':
        this.parts.kvChanged(action.stored, action.removed)
        break
    }
  }

  private performRest(actions: readonly CoreAction[]): Answer {
    let answer: Answer
    let refusal: Refusal | undefined
    for (const action of actions) {
      if (comesFirst(action)) continue
      if (action.type === 'refused') refusal = action.reason
      else answer = this.perform(action) ?? answer
    }
    // What follows a refusal is others' work, such as a step on memory that became free with the same event.
    if (refusal !== undefined) throw new RefusedByCore(refusal)
    return answer
  }

  private perform(action: Exclude<CoreAction, { type: 'refused' } | FirstAction>): Answer {
    switch (action.type) {
      case 'admitted': {
        const { counter, cachedTokens, tokensAhead } = action
        this.sequences.get(action.sequence)?.owner.admitted?.(counter, cachedTokens, tokensAhead)
        // No answer: whoever got memory with this event may be another one than who asked.
        return undefined
      }
      case 'sequence-ended': {
        const sequence = this.sequences.get(action.sequence)
        this.sequences.delete(action.sequence)
        sequence?.owner.ended(action.reason, sequence.error, action.reads)
        return undefined
      }
      case 'lease-ended':
      // Each step runs by itself here.
      case 'repeat-less':
        return undefined
      case 'drained':
        this.drained.resolve()
        return undefined
      default:
        return action
    }
  }

  /** Moves blocks between tiers. Without the copy their sequences would attend to other blocks' keys. */
  private copy(from: readonly number[], to: readonly number[]): void {
    const copied = this.parts.driver.copyBlocks(Uint32Array.from(from), Uint32Array.from(to))
    copied.catch((thrown: unknown) => {
      this.parts.log.error({ err: thrown }, 'blocks could not be moved between tiers')
      this.parts.onBroken(KvasirError.from(thrown))
    })
  }

  private async runStep(parts: readonly StepPart[]): Promise<void> {
    const batch = parts.map((part) => this.stepSequence(part))
    const prefills = parts.filter(({ role }) => role === 'prefill')
    const onLayer = (layer: number) => {
      for (const { sequence, start, count } of prefills) {
        this.sequences.get(sequence)?.owner.layerComputed?.(layer, start + count)
      }
    }
    let result: StepResult
    this.stepping = true
    const watchdog = setTimeout(() => this.hangs(), this.parts.stepMs)
    try {
      result = await this.parts.driver.step(batch, prefills.length === 0 ? undefined : onLayer)
    } catch (thrown) {
      this.stepping = false
      this.stepFailed(parts, thrown)
      return
    } finally {
      clearTimeout(watchdog)
    }
    this.stepping = false
    this.stepFinished(parts, result)
  }

  private stepSequence(part: StepPart): StepSequence {
    const { sequence: id, blocks, start, count, wantLogits } = part
    const sequence = this.sequences.get(id)
    if (sequence === undefined) throw new Error(`The core runs sequence ${id}, which nobody owns`)
    if (!sequence.begun) {
      sequence.begun = true
      sequence.owner.started?.()
    }
    const tokens = Uint32Array.from(sequence.tokens.slice(start, start + count))
    const rows = { blocks: Uint32Array.from(blocks), start, tokens, wantLogits }
    if (part.role !== 'decode') return rows
    const { trackPages } = this.parts
    return { ...rows, ...(trackPages ? { trackPages } : {}), ...sequence.owner.attention?.(part) }
  }

  /** Its blocks may still be written to, so that its sequences cannot simply be ended. */
  private hangs(): void {
    const { stepMs, onBroken } = this.parts
    onBroken(
      new InternalError(`The device did not end a step within ${stepMs / 1_000} s; restart its agent.`),
    )
  }

  private stepFailed(parts: readonly StepPart[], thrown: unknown): void {
    const error = KvasirError.from(thrown)
    this.parts.log.error({ err: thrown }, 'a device step failed')
    this.failedSteps += 1
    if (this.failedSteps === FAILED_STEPS_MAX) this.parts.onBroken(error)
    for (const { sequence: id } of parts) {
      const sequence = this.sequences.get(id)
      if (sequence !== undefined) sequence.error = error
    }
    this.apply({ type: 'step-failed' })
  }

  private stepFinished(parts: readonly StepPart[], result: StepResult): void {
    this.lastStepUs = result.elapsedUs
    this.failedSteps = 0
    const failed = this.failedSequences(parts, result)
    const stopped: number[] = []
    const filled: { readonly sequence: number; readonly hash: string }[] = []
    const reads: ({ readonly sequence: number } & PageUse)[] = []
    const tell: { readonly id: number; say(owner: SequenceOwner): void }[] = []
    const rows = parts.filter(({ wantLogits }) => wantLogits).length
    const vocabulary = rows === 0 ? 0 : result.logits.length / rows
    const shares = promptShares(parts)
    let row = 0
    for (const [place, part] of parts.entries()) {
      const from = row * vocabulary
      if (part.wantLogits) row += 1
      const sequence = this.sequences.get(part.sequence)
      if (sequence === undefined || failed.includes(part.sequence)) continue
      const { id } = sequence
      const use = result.attention[place]
      // What a cancelled step computed is computed again.
      if (result.cancelled) continue
      if (part.role === 'decode') {
        tell.push({ id, say: (owner) => owner.decoded?.(result.elapsedUs, parts.length, use) })
      } else {
        const shareUs = result.elapsedUs * (shares[place] ?? 0)
        tell.push({ id, say: (owner) => owner.chunkComputed?.(shareUs) })
      }
      if (use !== undefined) reads.push({ sequence: id, reads: use.reads, mass: use.mass })
      const hash = sequence.hashes?.filled(sequence.tokens, part.start + part.count)
      if (hash !== undefined) filled.push({ sequence: id, hash })
      if (!part.wantLogits) continue
      if (part.role === 'prefill') tell.push({ id, say: (owner) => owner.promptComputed?.() })
      const token = this.sample(sequence, result.logits.subarray(from, from + vocabulary))
      if (token === undefined) continue
      const index = sequence.firstIndex + sequence.tokens.length - sequence.promptTokens
      const stops = sequence.stopTokens.has(token.id)
      sequence.tokens.push(token.id)
      if (stops) stopped.push(part.sequence)
      tell.push({ id, say: (owner) => owner.sampled?.(token, index, stops) })
    }
    const { cancelled, elapsedUs } = result
    const actions = this.parts.core.step(
      { type: 'step-finished', cancelled, stopped, elapsedUs, failed, filled, reads },
      this.parts.clock.nowMs(),
    )
    this.performFirst(actions)
    for (const { id, say } of tell) {
      // What one owner is told may end its sequence, which then hears no more.
      const owner = this.sequences.get(id)?.owner
      if (owner !== undefined) say(owner)
    }
    this.performRest(actions)
  }

  /** Sequences whose remote attention failed, each with its error set. */
  private failedSequences(parts: readonly StepPart[], result: StepResult): number[] {
    const failed: number[] = []
    for (const { sequence: place, error } of result.failed) {
      const sequence = this.sequences.get(parts[place]?.sequence ?? -1)
      if (sequence === undefined) continue
      sequence.error = error
      failed.push(sequence.id)
    }
    return failed
  }

  /** Undefined where the logits are damaged; the sequence then ends as failed. */
  private sample(sequence: RunningSequence, logits: Float32Array): SampledToken | undefined {
    const index = sequence.firstIndex + sequence.tokens.length - sequence.promptTokens
    try {
      const sampled = sampleToken(logits, sequence.sampling, index)
      const known = sequence.replay?.[index]
      return known === undefined ? sampled : { ...sampled, id: known }
    } catch (thrown) {
      this.fail(sequence.id, KvasirError.from(thrown))
      return undefined
    }
  }
}

const FIRST: ReadonlySet<string> = new Set<FirstAction['type']>([
  'demote',
  'copy',
  'run-step',
  'cancel-step',
  'kv-changed',
])

function comesFirst(action: CoreAction): action is FirstAction {
  return FIRST.has(action.type)
}
