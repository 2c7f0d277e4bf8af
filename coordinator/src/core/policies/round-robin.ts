/** The devices that prefer a stage take turns at it, of those that have room. */
import type { Rank } from '../candidates.js'
import { pickByRank } from './pick-by-rank.js'
import type { PickPolicy } from './pick-policy.js'

export const roundRobin: PickPolicy = {
  name: 'round-robin',
  pick(board) {
    const inTurn: Rank = ({ at, length }) => (at - (board.turn % length) + length) % length
    return pickByRank(board, 'in-turn', { prefill: inTurn, decode: inTurn })
  },
}
