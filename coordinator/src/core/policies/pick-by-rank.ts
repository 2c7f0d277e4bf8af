/** What policies share that take one device of each role without weighing pairs. */
import type { Rank } from '../candidates.js'
import type { PolicyRule } from '../decision.js'
import { planned } from '../pairs.js'
import type { PickBoard, Picked } from './pick-policy.js'

export function pickByRank(
  { candidates, prefix, score }: PickBoard,
  rule: PolicyRule,
  ranks: { readonly prefill: Rank; readonly decode: Rank },
): Picked {
  const prefiller = candidates.prefillerBy(ranks.prefill)
  const decoder = candidates.decoderBy(ranks.decode)
  const ranked = prefiller && decoder ? score(planned([prefiller], prefix), [decoder]) : []
  return { ranked, prefillRule: rule, decodeRule: rule }
}
