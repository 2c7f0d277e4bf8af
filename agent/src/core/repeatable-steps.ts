/**
 * How many steps the running one may stand for: so many in a row would have the same rows, each one token
 * further, and change nothing that anybody is told.
 *
 * That is so while all rows decode, nobody else could join them, none of them reaches its end, and room is extended
 * with free blocks alone, so that nothing is evicted. Who waits for memory goes on waiting, since steps that decode
 * give none back. Pages do not move while the mover rests. Leases that nobody uses expire with time: a run of steps is
 * one event, and so should end by `AgentCore.nextExpiryMs` where it must equal single steps exactly; where it does not,
 * they end with the run.
 */
import { blocksWithin, stepsUntilExtension } from './decode-room.js'
import type { DeviceState } from './device-state.js'
import type { TierMover } from './tier-mover.js'

/** At least 1; 0 where no step runs. */
export function repeatableSteps(state: DeviceState, mover: TierMover): number {
  const { running, inPhase, options } = state
  if (running === undefined) return 0
  if (inPhase.prefilling.size > 0) return 1
  const { sequences, parts } = running
  const most = Math.min(options.limits.rowsMax, options.decodesAtOnce ?? Number.POSITIVE_INFINITY)
  const decoding = inPhase.decoding.all
  if (sequences.length !== Math.min(most, decoding.length)) return 1
  let steps = mover.active ? mover.stepsAtRest + 1 : Number.POSITIVE_INFINITY
  let extensionStep = Number.POSITIVE_INFINITY
  for (const [index, sequence] of sequences.entries()) {
    if (decoding[index] !== sequence || parts[index]?.role !== 'decode') return 1
    steps = Math.min(steps, sequence.sampleTokensMax - sequence.sampledTokens)
    extensionStep = Math.min(extensionStep, stepsUntilExtension(state, sequence))
  }
  if (extensionStep >= steps) return Math.max(1, steps)
  let blocks = 0
  for (const sequence of sequences) blocks += blocksWithin(state, sequence, steps)
  // Else the first extension may evict what others are told of, or fail.
  return Math.max(1, blocks <= state.memory.table.freeBlocks ? steps : extensionStep)
}
