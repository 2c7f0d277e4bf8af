/**
 * Between two steps: pages move, decodes make sure of their room, waiting prefills come in, and the
 * rows of the next step are chosen.
 */
import { ensureRoom } from './decode-room.js'
import type { DeviceState, Leased, Sequence } from './device-state.js'
import { begin, reusableBlocks } from './intake.js'
import { sayRepeatable } from './repeatable-steps.js'
import { planRows } from './step-planner.js'
import type { TierMover } from './tier-mover.js'

/** Starts a step where none runs and there are rows; lets in who waits in any case. */
export function startNextStep(state: DeviceState, mover: TierMover, nowMs: number): void {
  if (state.running !== undefined) {
    admitWaiting(state, nowMs)
    return
  }
  if (mover.active && state.readSinceMove) {
    state.readSinceMove = false
    mover.move(state)
  }
  const decodes = decodesWithRoom(state)
  admitWaiting(state, nowMs)
  const { options, costs, blockTokens } = state
  const { limits } = options
  const { prefilling } = state.inPhase
  const prefills = prefilling.size === 0 ? NOBODY : prefilling.all.filter(hasLease)
  const step = planRows(prefills, decodes, limits, blockTokens, () => costs.sharedChunkTokens(limits))
  if (step.parts.length === 0) return
  state.startStep(step)
  const repeatable = sayRepeatable(state, mover)
  state.emit({ type: 'run-step', parts: step.parts, repeatable })
}

/** Prompt tokens that are still to be computed; of sequences that have memory, or of all. */
export function prefillTokens({ inPhase }: DeviceState, whose: 'admitted' | 'all'): number {
  const admitted = tokensLeft(inPhase.prefilling.all) + tokensLeft(inPhase.fetching.all)
  return whose === 'all' ? admitted + tokensLeft(inPhase.waiting.all) : admitted
}

function tokensLeft(sequences: readonly Sequence[]): number {
  let tokens = 0
  for (const { promptTokens, computedTokens } of sequences) tokens += promptTokens - computedTokens
  return tokens
}

/** Those that decode in the next step, the oldest first. */
function decodesWithRoom(state: DeviceState): readonly Leased[] {
  const { decodesAtOnce = Number.POSITIVE_INFINITY } = state.options
  const { decoding } = state.inPhase
  if (decoding.size === 0) return NOBODY
  const fitting: Leased[] = []
  // Of a copy: who gives way leaves the list, and is never older than whom it gives way to.
  for (const sequence of [...decoding.all]) {
    if (fitting.length >= decodesAtOnce) break
    if (sequence.phase !== 'decoding' || !hasLease(sequence)) continue
    if (ensureRoom(state, sequence)) fitting.push(sequence)
  }
  return fitting
}

function admitWaiting(state: DeviceState, nowMs: number): void {
  const { waiting } = state.inPhase
  const { table } = state.memory
  for (let sequence = waiting.all[0]; sequence !== undefined; sequence = waiting.all[0]) {
    const { refused } = state
    // Nothing has come free since it was looked at.
    if (refused?.sequence === sequence && refused.roomGained === table.roomGained) return
    const counter = leaseFor(state, sequence, nowMs)
    // First come, first served: nobody overtakes a long prompt, or it would wait for ever.
    if (counter === undefined) {
      state.refused = { sequence, roomGained: table.roomGained }
      return
    }
    const tokensAhead = prefillTokens(state, 'admitted')
    state.attach(sequence, counter)
    begin(state, sequence, 'computed')
    const blocks = [...state.memory.blocks(counter)]
    const cachedTokens = sequence.computedTokens
    state.emit({ type: 'admitted', sequence: sequence.id, counter, blocks, tokensAhead, cachedTokens })
  }
}

function leaseFor(state: DeviceState, sequence: Sequence, nowMs: number): bigint | undefined {
  const { id, requestId, epoch, promptTokens, hashes } = sequence
  const shared = hashes.slice(0, reusableBlocks(state, promptTokens))
  const owner = { role: 'prefill', requestId, epoch, hashes: shared, sequence: id } as const
  const counter = state.lease(owner, promptTokens, nowMs)
  if (counter !== undefined) state.memory.identify(counter, hashes)
  return counter
}

function hasLease(sequence: Sequence): sequence is Leased {
  return sequence.holding !== undefined
}

const NOBODY: readonly Leased[] = []
