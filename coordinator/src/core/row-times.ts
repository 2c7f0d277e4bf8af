/**
 * The cost model's times for a row of device-table.ts, for passes over all devices. Equal to what CostModel
 * says of the same device.
 */
import { othersTokens } from './attention-stages.js'
import { prefillIdealMs, stepIdealMs } from './cost-model.js'
import {
  BYTES_PER_SECOND,
  DECODE_EFFICIENCY,
  KEY_WIDTH,
  type ModelTable,
  PARAMETERS,
  POOL_BYTES_PER_TOKEN,
  PREFILL_EFFICIENCY,
  PREFILL_OPS_PER_SECOND,
  PREFILL_TOKENS_AHEAD,
  ROW_NUMBERS,
  SLOTS_USED,
  STEP_OPS_PER_SECOND,
  WEIGHT_BYTES,
} from './device-table.js'
import type { RowList } from './row-list.js'

/**
 * As CostModel.prefillMs behind the prompts that wait on the device, of the same model. `sharedEfficiency`: of
 * devices that were not measured.
 */
export function prefillMsAt(
  { numbers }: ModelTable,
  row: number,
  tokens: number,
  contextTokens: number,
  sharedEfficiency: number,
): number {
  const first = row * ROW_NUMBERS
  const idealMs = prefillIdealMs(
    numbers[first + PREFILL_OPS_PER_SECOND] ?? 0,
    numbers[first + BYTES_PER_SECOND] ?? 0,
    numbers[first + PARAMETERS] ?? 0,
    numbers[first + WEIGHT_BYTES] ?? 0,
    numbers[first + POOL_BYTES_PER_TOKEN] ?? 0,
    numbers[first + KEY_WIDTH] ?? 0,
    tokens,
    contextTokens,
    numbers[first + PREFILL_TOKENS_AHEAD] ?? 0,
  )
  return idealMs / either(numbers[first + PREFILL_EFFICIENCY], sharedEfficiency)
}

/** As CostModel.stepMs. */
export function stepMsAt(
  { numbers }: ModelTable,
  row: number,
  batch: number,
  contextTokens: number,
  sharedEfficiency: number,
): number {
  const first = row * ROW_NUMBERS
  const idealMs = stepIdealMs(
    numbers[first + STEP_OPS_PER_SECOND] ?? 0,
    numbers[first + BYTES_PER_SECOND] ?? 0,
    numbers[first + PARAMETERS] ?? 0,
    numbers[first + WEIGHT_BYTES] ?? 0,
    numbers[first + POOL_BYTES_PER_TOKEN] ?? 0,
    batch,
    contextTokens,
  )
  return idealMs / either(numbers[first + DECODE_EFFICIENCY], sharedEfficiency)
}

/** What is known of a request's decode steps without looking at a device's attention. */
export interface StepBounds {
  /** Tokens in the sequence at its longest. */
  readonly tokensMax: number
  /** Attention is dense unless another way takes at most this share of the time; 0 where it may be anything. */
  readonly worthShare: number
}

/**
 * No step of these devices takes less, whichever way they attend; mostly no step takes more: what a step takes
 * without this sequence's own attention, or with dense attention where that is not enough less to make a
 * difference.
 */
export function fillLeastStepMs(
  table: ModelTable,
  list: RowList,
  { tokensMax, worthShare }: StepBounds,
  sharedEfficiency: number,
): void {
  const { rows, ms, length } = list
  for (let at = 0; at < length; at += 1) {
    const row = rows[at] ?? 0
    const batch = (table.numbers[row * ROW_NUMBERS + SLOTS_USED] ?? 0) + 1
    const restMs = stepMsAt(table, row, batch, othersTokens(tokensMax, batch), sharedEfficiency)
    const denseMs = worthShare > 0 ? stepMsAt(table, row, batch, tokensMax, sharedEfficiency) : 0
    ms[at] = restMs > worthShare * denseMs ? Math.max(restMs, denseMs) : restMs
  }
}

function either(own: number | undefined, shared: number): number {
  return own === undefined || Number.isNaN(own) ? shared : own
}
