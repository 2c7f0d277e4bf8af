/** The pair that is predicted to give the last token first, whatever its devices prefer. */
import { planned } from '../pairs.js'
import type { PickPolicy } from './pick-policy.js'

export const earliestFinish: PickPolicy = {
  name: 'earliest-finish',
  pick({ candidates, prefix, isOffloadAsked, score }) {
    const prefillers = planned(candidates.allPrefillers(), prefix)
    const decoders = [
      ...candidates.decoders(true, isOffloadAsked),
      ...candidates.decoders(false, isOffloadAsked),
    ]
    const ranked = score(prefillers, decoders)
    return { ranked, prefillRule: 'earliest-finish', decodeRule: 'earliest-finish' }
  },
}
