/**
 * Chooses the rows of the next device step.
 *
 * Every sequence that decodes takes part with one row: a token is what its client is
 * waiting for. What is left of the step goes to prefills, first come, first served.
 * A prefill chunk is long when nothing decodes, since then only the prompts wait, and
 * short when decodes share the step, since then every row makes their next token later: how short
 * follows from what rows cost on the device (step-costs.ts).
 */
import type { StepPart } from './events.js'
import type { Holding } from './holding.js'

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
  readonly id: number
  readonly promptTokens: number
  readonly computedTokens: number
  readonly sampledTokens: number
  readonly holding: Holding
}

/** One sequence's rows: `count` tokens from position `start`. */
class PlannedRows implements StepPart {
  readonly firstPage: number
  readonly #holding: Holding
  readonly #pages: number

  constructor(
    readonly sequence: number,
    readonly role: StepPart['role'],
    readonly start: number,
    readonly count: number,
    readonly wantLogits: boolean,
    holding: Holding,
    blockTokens: number,
  ) {
    this.firstPage = holding.first
    this.#holding = holding
    this.#pages = Math.ceil((start + count) / blockTokens)
  }

  /** Looked up where somebody asks, since a study mostly does not. They stay as they are while the step runs. */
  get blocks(): readonly number[] {
    return this.#holding.blocksBefore(this.#pages)
  }
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
): { readonly parts: readonly StepPart[]; readonly sequences: readonly Candidate[] } {
  const parts: StepPart[] = []
  const sequences: Candidate[] = []
  for (const decode of decodes) {
    if (parts.length >= rowsMax) break
    const { id, holding } = decode
    const start = decode.promptTokens + decode.sampledTokens - 1
    parts.push(new PlannedRows(id, 'decode', start, 1, true, holding, blockTokens))
    sequences.push(decode)
  }
  if (prefills.length === 0) return { parts, sequences }
  const chunk = parts.length > 0 ? sharedChunkTokens() : chunkTokens
  let budget = Math.min(chunk, rowsMax - parts.length)
  for (const prefill of prefills) {
    if (budget <= 0) break
    const { id, holding, computedTokens: start } = prefill
    const left = prefill.promptTokens - start
    // A chunk that does not reach the prompt's end stops at a block's end, so that it fills whole blocks to send.
    const aligned = Math.floor((start + budget) / blockTokens) * blockTokens - start
    const count = left <= budget ? left : aligned > 0 ? aligned : budget
    parts.push(new PlannedRows(id, 'prefill', start, count, count === left, holding, blockTokens))
    sequences.push(prefill)
    budget -= count
  }
  return { parts, sequences }
}
