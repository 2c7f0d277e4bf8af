/**
 * Filter → Score → Pick: which device prefills a request and which decodes it.
 *
 * Filters are absolute, in the order of FILTER_REASONS. The score of a pair is its
 * predicted time to the last token: wait and prefill of what is not cached, fetching
 * what is cached elsewhere (prefix-choice.ts), the part of the KV transfer that prefill
 * does not hide, and the decode steps.
 *
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
import { isRemote } from './attention-choice.js'
import { AttentionPlacement, looksForAttendants } from './attention-placement.js'
import { hashCount } from './block-hashes.js'
import { Candidates } from './candidates.js'
import type { ClusterView } from './cluster-view.js'
import type { CostModel } from './cost-model.js'
import {
  type Decision,
  type DecodeRule,
  type Filtered,
  PAIRS_KEPT,
  type PassedOver,
  type PrefillRule,
} from './decision.js'
import { DeviceFilter, type FilterInput, type PlacementLimits } from './device-filter.js'
import type { ProfileName, Role } from './facts.js'
import { poolBytes } from './kv-blocks.js'
import type { KvDirectory } from './kv-directory.js'
import {
  cannotBeMuchFaster,
  comparePairs,
  type Decoder,
  isFaster,
  isMuchFaster,
  type Prefiller,
  planned,
  type ScoredPair,
  scorePairs,
} from './pairs.js'
import { PrefixChoice } from './prefix-choice.js'
import type { Prompt } from './prefix-plan.js'
import type { StageCosts } from './stage-costs.js'

/** Tokens generated are not known in advance; no more than this many are weighed. */
const TOKENS_WEIGHED_MAX = 256

/** What placement looks at. */
export interface PlacementView {
  readonly view: ClusterView
  readonly costs: CostModel
  readonly stageCosts: StageCosts
  readonly directory: KvDirectory
}

export interface PlacementInput extends Prompt, FilterInput {
  readonly requestId: string
  readonly epoch: number
  /** To be tried, the one that was asked for first. A pair has one profile. */
  readonly profiles: readonly ProfileName[]
  /** Most tokens still to come. */
  readonly tokensLeft: number
  readonly movedBecause: string | null
}

export type PlacementOutcome =
  | { readonly placed: true; readonly decision: Decision }
  /** Nothing could be placed in any of the profiles. */
  | { readonly placed: false; readonly tried: readonly PassedOver[] }

/** Whether some device could keep the prompt and some device all of it, if they held nothing else. */
export function fitsEmptyDevices(
  input: Pick<PlacementInput, 'modelDigest' | 'prefillTokens' | 'reserveTokens'>,
  profile: ProfileName,
  view: ClusterView,
): boolean {
  const table = view.table.model({ digest: input.modelDigest, profile })
  const fits = (role: Role, tokens: number): boolean =>
    table?.loaded.some((model) => {
      if (!model?.isThere) return false
      const { traits } = model.device
      const isAble = role === 'prefill' ? traits.canPrefill : traits.canDecode
      const isShortEnough = input.prefillTokens <= model.facts.contextTokensMax
      return isAble && isShortEnough && poolBytes(model.facts, tokens) <= model.kvBytesMax
    }) === true
  return fits('prefill', input.prefillTokens) && fits('decode', input.reserveTokens)
}

/** The best pair of the first profile that has one. */
export function place(
  input: PlacementInput,
  cluster: PlacementView,
  limits: PlacementLimits,
  nowMs: number,
): PlacementOutcome {
  const tried: PassedOver[] = []
  for (const profile of input.profiles) {
    const outcome = placeIn(profile, input, cluster, limits, nowMs)
    if ('decision' in outcome) {
      return { placed: true, decision: { ...outcome.decision, passedOver: tried[0] ?? null } }
    }
    tried.push({ profile, filtered: outcome.filtered })
  }
  return { placed: false, tried }
}

function placeIn(
  profile: ProfileName,
  input: PlacementInput,
  cluster: PlacementView,
  limits: PlacementLimits,
  nowMs: number,
): { readonly decision: Decision } | { readonly filtered: Filtered } {
  const { view, costs, directory } = cluster
  const { prefillTokens } = input
  const answerTokens = Math.min(input.tokensLeft, TOKENS_WEIGHED_MAX)
  const context = { contextTokens: prefillTokens, steps: answerTokens }
  const prefix = new PrefixChoice(input, profile, view, costs, directory, nowMs)
  const attention = new AttentionPlacement(input.attention, context, cluster)
  const filter = new DeviceFilter(input, profile, view, limits, nowMs)
  const mayOffload = looksForAttendants(input.attention, prefillTokens, answerTokens)
  const model = { digest: input.modelDigest, profile }
  const candidates = new Candidates({ filter, attention, prefix, costs }, model, mayOffload)
  const score = (prefillers: readonly Prefiller[], decoders: readonly Decoder[]): ScoredPair[] =>
    scorePairs(prefillers, decoders, { prefillTokens, answerTokens }, costs, prefix)
  const isOffloadAsked = isRemote(input.attention.wish)
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
  const [best] = ranked
  // Now that it is known who prefills, and so prepares.
  const plan = best && attention.plan(best.decoder.model, best.prefiller.model.device)
  if (!plan) return { filtered: filter.counts }
  return {
    decision: {
      requestId: input.requestId,
      epoch: input.epoch,
      prefill: best.prefill,
      decode: best.decode,
      profile,
      numerics: best.decoder.model.facts.numerics,
      prefillNumerics: best.prefiller.model.facts.numerics,
      ttftMs: best.ttftMs,
      tpotMs: best.tpotMs,
      prefillRule,
      decodeRule,
      prefix: {
        ...prefix.plan(best.prefiller.model),
        blocks: hashCount(input.blockHashes),
        heldByDecodeTokens: best.heldByDecodeTokens,
      },
      attention: plan,
      movedBecause: input.movedBecause,
      weighed: ranked.slice(0, PAIRS_KEPT).map(({ prefill, decode, ttftMs, tpotMs }) => {
        return { prefill, decode, ttftMs, tpotMs }
      }),
      filtered: filter.counts,
      passedOver: null,
    },
  }
}
