/**
 * The house rule (after GLITCHES), by capability order, never by kind:
 * - a device that lists prefill first prefills; one that lists decode first does so
 *   only when no other is left;
 * - a device that lists decode first and has a free slot decodes. One that lists
 *   prefill first decodes when there is none, or when it is *much* faster: its best
 *   pair is predicted to take under MUCH_FASTER of the time of the best pair with a
 *   free decode slot, and both predictions are trusted (catalogued devices, or enough
 *   records of finished requests). The bar is high because every step it decodes
 *   delays the prompts behind it, which one request's time does not show, and because
 *   times swing with contention: equal devices always split the work;
 * - while another device attends for the decoding one because the client asked, one that lists prefill
 *   first decodes, since the device that attends keeps its slots for others;
 * - one that lists decode first, has a free slot and holds the beginning of the prompt
 *   prefills the rest itself where that is predicted to be faster than the best pair
 *   that the rules above give.
 */
import type { DecodeRule, PrefillRule } from '../decision.js'
import { PAIRS_KEPT } from '../decision.js'
import { cannotBeMuchFaster, comparePairs, isFaster, isMuchFaster, planned } from '../pairs.js'
import type { PickPolicy } from './pick-policy.js'

export const house: PickPolicy = {
  name: 'house',
  pick({ candidates, prefix, costs, answerTokens, isOffloadAsked, score }) {
    const prefillers = planned(candidates.prefillers(), prefix)
    const usual = score(prefillers, candidates.decoders(true, isOffloadAsked))
    const bestUsual = usual[0]
    // Among thousands of devices these are most of the work, for a rule that seldom comes into force.
    const isDecided =
      bestUsual !== undefined &&
      usual.length >= PAIRS_KEPT &&
      !isOffloadAsked &&
      cannotBeMuchFaster(prefillers, candidates.leastUnusualStepMs(), answerTokens, bestUsual)
    const unusual = isDecided ? [] : score(prefillers, candidates.decoders(false, isOffloadAsked))
    const bestUnusual = unusual[0]
    let decodeRule: DecodeRule = 'free-slot'
    let ranked = [...usual, ...unusual]
    if (isOffloadAsked && bestUnusual?.decoder.isOffloaded) {
      decodeRule = 'offloads'
      ranked = [...unusual, ...usual]
    } else if (!bestUsual) {
      decodeRule = 'no-free-slot'
    } else if (bestUnusual && isMuchFaster(bestUnusual, bestUsual, costs)) {
      decodeRule = 'much-faster'
      ranked = [...unusual, ...usual]
    }
    let prefillRule: PrefillRule = candidates.prefersPrefill ? 'prefers-prefill' : 'only-one-left'
    const bestAlone = (isOffloadAsked ? [] : candidates.holders())
      .flatMap((holder) => score(planned([holder], prefix), [holder.decoder]))
      .sort(comparePairs)[0]
    if (prefillRule === 'prefers-prefill' && bestAlone && ranked[0] && isFaster(bestAlone, ranked[0])) {
      prefillRule = 'holds-prefix'
      decodeRule = 'free-slot'
      ranked = [bestAlone, ...ranked]
    }
    return { ranked, prefillRule, decodeRule }
  },
}
