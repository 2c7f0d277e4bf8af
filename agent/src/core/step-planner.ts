/**
 * Chooses the rows of the next device step.
 *
 * Every sequence that decodes takes part with one row: a token is what its client is
 * waiting for. What is left of the step goes to prefills, first come, first served.
 * A prefill chunk is long when nothing decodes, since then only the prompts wait, and
 * short when decodes share the step, since then every row makes their next token later: how short
 * follows from what rows cost on the device (step-costs.ts).
 */
import { BLOCK_TOKENS } from './block-allocator.js'

export interface StepLimits {
  /** Most rows the driver takes. */
  readonly rowsMax: number
  /** Most prefill rows of a step in which nothing decodes. */
  readonly chunkTokens: number
  /** Most prefill rows of a step that decodes share. */
  readonly sharedChunkTokens: number
}

/** A prompt that is partly computed. */
export interface PrefillCandidate {
  readonly sequence: number
  readonly computedTokens: number
  readonly promptTokens: number
}

/** Rows of one sequence in a step: `count` tokens from position `start`. */
export interface PlannedRows {
  readonly sequence: number
  readonly role: 'prefill' | 'decode'
  readonly start: number
  readonly count: number
  readonly wantLogits: boolean
}

/**
 * `prefills` in order of arrival; `decodes` with the position of their next token.
 * Empty where there is nothing to do.
 */
export function planRows(
  prefills: readonly PrefillCandidate[],
  decodes: readonly { readonly sequence: number; readonly position: number }[],
  limits: StepLimits,
): PlannedRows[] {
  const rows: PlannedRows[] = decodes.slice(0, limits.rowsMax).map(({ sequence, position }) => ({
    sequence,
    role: 'decode',
    start: position,
    count: 1,
    wantLogits: true,
  }))
  const chunk = rows.length > 0 ? limits.sharedChunkTokens : limits.chunkTokens
  let budget = Math.min(chunk, limits.rowsMax - rows.length)
  for (const { sequence, computedTokens, promptTokens } of prefills) {
    if (budget <= 0) break
    const left = promptTokens - computedTokens
    // A chunk that does not reach the prompt's end stops at a block's end, so that it fills whole blocks to send.
    const aligned = Math.floor((computedTokens + budget) / BLOCK_TOKENS) * BLOCK_TOKENS - computedTokens
    const count = left <= budget ? left : aligned > 0 ? aligned : budget
    rows.push({ sequence, role: 'prefill', start: computedTokens, count, wantLogits: count === left })
    budget -= count
  }
  return rows
}
