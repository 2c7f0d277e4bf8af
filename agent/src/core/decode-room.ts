/**
 * Room for the next token of a decoding sequence.
 *
 * A lease starts with room for the prompt and a bounded number of new tokens, since most
 * requests end long before their limit. It is extended while a whole block is still
 * free, so that the extension is never what a token waits for. When memory is short and
 * the room is used up, the sequence that arrived last gives way: it has the least work
 * to repeat, and the oldest always goes on, so the device makes progress.
 */
import { BLOCK_TOKENS } from './block-allocator.js'
import type { DeviceState, Sequence } from './device-state.js'

/** Tokens that one extension asks for. */
export const EXTENSION_TOKENS = 256

/**
 * True where the sequence's next row fits. False where it must sit this step out, or
 * was itself preempted. Called only between steps.
 */
export function ensureRoom(state: DeviceState, sequence: Sequence, counter: bigint): boolean {
  const roomTokens = state.memory.roomTokens(counter)
  const neededTokens = sequence.promptTokens + sequence.sampledTokens
  const comfortable = Math.min(neededTokens + BLOCK_TOKENS, sequence.roomTokensMax)
  if (roomTokens >= comfortable) return true
  const wish = Math.min(roomTokens + EXTENSION_TOKENS, sequence.roomTokensMax)
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

function latestDecode(state: DeviceState): Sequence | undefined {
  let latest: Sequence | undefined
  for (const sequence of state.sequences.values()) if (sequence.role === 'decode') latest = sequence
  return latest
}
