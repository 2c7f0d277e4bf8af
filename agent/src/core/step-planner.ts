/**
 * Chooses the rows of the next device step.
 *
 * Every sequence that decodes takes part with one row: a token is what its client is
 * waiting for. What is left of the step goes to prefills, first come, first served.
 * A prefill chunk is long when nothing decodes, since then only the prompts wait, and
 * short when decodes share the step, since then every row makes their next token later: how short
 * follows from what rows cost on the device (step-costs.ts).
 */

export interface StepLimits {
  /** Most rows the driver takes. */
  readonly rowsMax: number
  /** Most prefill rows of a step in which nothing decodes. */
  readonly chunkTokens: number
  /** Most prefill rows of a step that decodes share. */
  readonly sharedChunkTokens: number
  /** Such a step may take so many times as long as one in which nothing is prefilled; 4 where absent. */
  readonly sharedStepStretch?: number
}

/** A sequence that decodes, or whose prompt is partly computed. */
export interface RowCandidate {
  readonly promptTokens: number
  readonly computedTokens: number
  readonly sampledTokens: number
}

/** Rows of one sequence in a step: `count` tokens from position `start`. */
export interface PlannedRows<Candidate> {
  readonly of: Candidate
  readonly role: 'prefill' | 'decode'
  readonly start: number
  readonly count: number
  readonly wantLogits: boolean
}

/**
 * `prefills` and `decodes` in order of arrival; a decode's row is its newest token. `sharedChunkTokens` is only asked
 * for where decodes and prefills meet. Empty where there is nothing to do.
 */
export function planRows<Candidate extends RowCandidate>(
  prefills: readonly Candidate[],
  decodes: readonly Candidate[],
  { rowsMax, chunkTokens }: StepLimits,
  blockTokens: number,
  sharedChunkTokens: () => number,
): PlannedRows<Candidate>[] {
  const rows: PlannedRows<Candidate>[] = []
  for (const of of decodes) {
    if (rows.length >= rowsMax) break
    const start = of.promptTokens + of.sampledTokens - 1
    rows.push({ of, role: 'decode', start, count: 1, wantLogits: true })
  }
  if (prefills.length === 0) return rows
  const chunk = rows.length > 0 ? sharedChunkTokens() : chunkTokens
  let budget = Math.min(chunk, rowsMax - rows.length)
  for (const of of prefills) {
    if (budget <= 0) break
    const start = of.computedTokens
    const left = of.promptTokens - start
    // A chunk that does not reach the prompt's end stops at a block's end, so that it fills whole blocks to send.
    const aligned = Math.floor((start + budget) / blockTokens) * blockTokens - start
    const count = left <= budget ? left : aligned > 0 ? aligned : budget
    rows.push({ of, role: 'prefill', start, count, wantLogits: count === left })
    budget -= count
  }
  return rows
}
