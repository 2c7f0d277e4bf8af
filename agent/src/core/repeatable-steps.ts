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

/** What was found of the running step, and of what it may stand for less from now on. */
export interface Repeatable {
  readonly steps: number
  /** DeviceState.rowsChanged, and BlockTable.freeBlocks. */
  readonly rowsChanged: number
  readonly freeBlocks: number
}

/** Notes, and returns, how many steps the one that has begun may stand for. */
export function sayRepeatable(state: DeviceState, mover: TierMover): number {
  const steps = repeatableSteps(state, mover)
  const { freeBlocks } = state.memory.table
  state.repeatable = { steps, rowsChanged: state.rowsChanged, freeBlocks }
  return steps
}

/** After an event while a step runs. */
export function sayRepeatLess(state: DeviceState, mover: TierMover): void {
  const { running, repeatable, rowsChanged, memory } = state
  if (running === undefined || repeatable.steps <= 1) return
  const isSame = rowsChanged === repeatable.rowsChanged && memory.table.freeBlocks >= repeatable.freeBlocks
  if (isSame) return
  const before = repeatable.steps
  const steps = sayRepeatable(state, mover)
  if (steps < before) state.emit({ type: 'repeat-less', repeatable: steps })
  else state.repeatable = { ...state.repeatable, steps: before }
}

/** At least 1. */
function repeatableSteps(state: DeviceState, mover: TierMover): number {
  const { running, inPhase, options } = state
  if (running === undefined || inPhase.prefilling.size > 0) return 1
  const { sequences, parts } = running
  const most = Math.min(options.limits.rowsMax, options.decodesAtOnce ?? Number.POSITIVE_INFINITY)
  const decoding = inPhase.decoding.all
  if (sequences.length !== Math.min(most, decoding.length)) return 1
  let steps = mover.active ? mover.stepsAtRest + 1 : Number.POSITIVE_INFINITY
  let extensionStep = Number.POSITIVE_INFINITY
  for (let index = 0; index < sequences.length; index += 1) {
    const sequence = sequences[index]
    if (sequence === undefined || decoding[index] !== sequence || parts[index]?.role !== 'decode') return 1
    steps = Math.min(steps, sequence.sampleTokensMax - sequence.sampledTokens)
    extensionStep = Math.min(extensionStep, stepsUntilExtension(state, sequence))
  }
  if (extensionStep >= steps) return Math.max(1, steps)
  let blocks = 0
  for (const sequence of sequences) blocks += blocksWithin(state, sequence, steps)
  // Else the first extension may evict what others are told of, or fail.
  return Math.max(1, blocks <= state.memory.table.freeBlocks ? steps : extensionStep)
}
