/**
 * Room for the next token of a decoding sequence.
 *
 * A lease starts with room for the prompt and a bounded number of new tokens, since most
 * requests end long before their limit. It is extended while a whole block is still
 * free, so that the extension is never what a token waits for. When memory is short and
 * the room is used up, the sequence that arrived last gives way: it has the least work
 * to repeat, and the oldest always goes on, so the device makes progress.
 */
import type { DeviceState, Leased, Sequence } from './device-state.js'

/** Tokens that one extension asks for. */
export const EXTENSION_TOKENS = 256

/**
 * True where the sequence's next row fits. False where it must sit this step out, or
 * was itself preempted. Called only between steps.
 */
export function ensureRoom(state: DeviceState, sequence: Leased): boolean {
  const { counter, holding, roomTokensMax } = sequence
  const roomTokens = holding.roomBlocks * state.blockTokens
  const neededTokens = sequence.promptTokens + sequence.sampledTokens
  if (roomTokens >= Math.min(neededTokens + state.blockTokens, roomTokensMax)) return true
  const wish = Math.min(roomTokens + EXTENSION_TOKENS, roomTokensMax)
  if (state.memory.extend(counter, wish)) return true
  if (roomTokens >= neededTokens) return true
  while (!state.memory.extend(counter, neededTokens)) {
    // Blocks that a transfer still touches come back by themselves: wait for them before taking more from others.
    if (state.memory.comingBlocks > 0) return false
    const victim = latestDecode(state)
    if (victim === undefined) return false
    state.endSequence(victim, 'preempted')
    if (victim === sequence) return false
  }
  return true
}

/** Steps that a decoding sequence makes, the running one included, until its room is extended. */
export function stepsUntilExtension(state: DeviceState, sequence: Leased): number {
  const roomTokens = sequence.holding.roomBlocks * state.blockTokens
  if (roomTokens >= sequence.roomTokensMax) return Number.POSITIVE_INFINITY
  return roomTokens - sequence.promptTokens - sequence.sampledTokens - state.blockTokens + 1
}

/** No more blocks than these are taken for a decoding sequence while it makes `steps` steps. */
export function blocksWithin(state: DeviceState, sequence: Leased, steps: number): number {
  const tokens = sequence.promptTokens + sequence.sampledTokens + steps + state.blockTokens + EXTENSION_TOKENS
  return Math.max(0, state.blocksFor(Math.min(tokens, sequence.roomTokensMax)) - sequence.holding.roomBlocks)
}

/**
 * Extends room as `ensureRoom` would between `steps` steps of these sequences, whose free blocks suffice (`blocksWithin`)
 * or of whom none needs more.
 */
export function extendBetween(state: DeviceState, sequences: readonly Leased[], steps: number): void {
  for (;;) {
    let firstStep = steps
    for (const sequence of sequences) firstStep = Math.min(firstStep, stepsUntilExtension(state, sequence))
    // The last step is followed by a look at everything.
    if (firstStep >= steps) return
    for (const sequence of sequences) {
      if (stepsUntilExtension(state, sequence) !== firstStep) continue
      const roomTokens = sequence.holding.roomBlocks * state.blockTokens
      const wish = Math.min(roomTokens + EXTENSION_TOKENS, sequence.roomTokensMax)
      if (!state.memory.extend(sequence.counter, wish)) {
        throw new Error('Steps were told of as one that needed more memory than was free')
      }
    }
  }
}

function latestDecode(state: DeviceState): Sequence | undefined {
  let latest: Sequence | undefined
  for (const sequence of state.sequences.values()) if (sequence.role === 'decode') latest = sequence
  return latest
}
