/**
 * The rows of a step whose logits are wanted: the last new token of each sequence that asks for them.
 * The last layer computes only these.
 */
import type { Query } from './attention-plan.js'
import type { StepSequence } from './device-driver.js'

export interface WantedRow {
  /** Row of the step. */
  readonly row: number
  /** Index among the ordered sequences. */
  readonly at: number
  readonly query: Query
}

/** In order of length, as attention wants them. `ordered`: the sequences in the order of the step's rows. */
export function wantedRows(ordered: readonly StepSequence[]): WantedRow[] {
  const wanted: WantedRow[] = []
  let row = 0
  for (const [at, { blocks, start, tokens, wantLogits }] of ordered.entries()) {
    row += tokens.length
    if (!wantLogits) continue
    wanted.push({ row: row - 1, at, query: { blocks, position: start + tokens.length - 1, rows: 1 } })
  }
  return wanted.sort((a, b) => a.query.position - b.query.position)
}

/** Takes the wanted rows of `[rows, width]`. */
export function pickRows(values: Float32Array, wanted: readonly WantedRow[], width: number): Float32Array {
  const picked = new Float32Array(wanted.length * width)
  for (const [i, { row }] of wanted.entries()) {
    picked.set(values.subarray(row * width, (row + 1) * width), i * width)
  }
  return picked
}

/** Rows in the order of `wanted` to rows in the order in which the caller gave the sequences. */
export function inCallersOrder(
  logits: Float32Array,
  wanted: readonly WantedRow[],
  order: readonly number[],
  width: number,
): Float32Array {
  const index = (entry: WantedRow) => order[entry.at] ?? 0
  const sorted = wanted
    .map((entry, from) => ({ from, index: index(entry) }))
    .sort((a, b) => a.index - b.index)
  if (sorted.every(({ from }, to) => from === to)) return logits
  const out = new Float32Array(logits.length)
  for (const [to, { from }] of sorted.entries()) {
    out.set(logits.subarray(from * width, (from + 1) * width), to * width)
  }
  return out
}
