/**
 * Each stage is bound to the devices that prefer it: the one of them with the fewest prompt tokens ahead prefills, the
 * one with the fewest slots in use decodes. Predicted times and what is cached count for nothing.
 */
import { PREFILL_TOKENS_AHEAD, SLOTS_USED } from '../device-table.js'
import { pickByRank } from './pick-by-rank.js'
import type { PickPolicy } from './pick-policy.js'

export const staticAffinity: PickPolicy = {
  name: 'static-affinity',
  pick: (board) =>
    pickByRank(board, 'emptiest', {
      prefill: ({ numbers, first }) => numbers[first + PREFILL_TOKENS_AHEAD] ?? 0,
      decode: ({ numbers, first }) => numbers[first + SLOTS_USED] ?? 0,
    }),
}
