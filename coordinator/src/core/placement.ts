/**
 * Filter → Score → Pick: which device prefills a request and which decodes it.
 *
 * Filters are absolute, in the order of FILTER_REASONS. The score of a pair is its
 * predicted time to the last token: wait and prefill of what is not cached, fetching
 * what is cached elsewhere (prefix-choice.ts), the part of the KV transfer that prefill
 * does not hide, and the decode steps. Which pair is picked is a policy (policies/): the house rule, unless the
 * coordinator is set to another one.
 */
import { isRemote } from './attention-choice.js'
import { AttentionPlacement, looksForAttendants } from './attention-placement.js'
import { hashCount } from './block-hashes.js'
import { Candidates, hasDecoder } from './candidates.js'
import type { ClusterView } from './cluster-view.js'
import type { CostModel } from './cost-model.js'
import { type Decision, type Filtered, PAIRS_KEPT, type PassedOver } from './decision.js'
import { DeviceFilter, type FilterInput, type PlacementLimits } from './device-filter.js'
import type { ProfileName, Role } from './facts.js'
import { poolBytes } from './kv-blocks.js'
import type { KvDirectory } from './kv-directory.js'
import { type Decoder, type Prefiller, type ScoredPair, scorePairs } from './pairs.js'
import type { PolicySetting } from './placement-policy.js'
import type { PickBoard } from './policies/pick-policy.js'
import { PICKS } from './policies/picks.js'
import { PrefixChoice } from './prefix-choice.js'
import type { Prompt } from './prefix-plan.js'
import type { StageCosts } from './stage-costs.js'

/** Tokens generated are not known in advance; no more than this many are weighed. */
const TOKENS_WEIGHED_MAX = 256

const HOUSE: PolicySetting = {}

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
  /** Counts requests, for policies that take turns; default 0. */
  readonly turn?: number
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
  limits: PlacementLimits & { readonly policy?: PolicySetting },
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
  limits: PlacementLimits & { readonly policy?: PolicySetting },
  nowMs: number,
): { readonly decision: Decision } | { readonly filtered: Filtered } {
  const { view, costs, directory } = cluster
  const { prefillTokens } = input
  const policy = limits.policy ?? HOUSE
  const answerTokens = Math.min(input.tokensLeft, TOKENS_WEIGHED_MAX)
  const context = { contextTokens: prefillTokens, steps: answerTokens }
  const prefix = new PrefixChoice(input, profile, view, costs, directory, nowMs)
  const attention = new AttentionPlacement(input.attention, context, cluster)
  const filter = new DeviceFilter(input, profile, view, limits, nowMs)
  const mayOffload = looksForAttendants(input.attention, prefillTokens, answerTokens)
  const model = { digest: input.modelDigest, profile }
  const isAssisted = policy.decodeAssist !== false || !hasDecoder(view.table, filter.model, nowMs)
  const candidates = new Candidates({ filter, attention, prefix, costs }, model, mayOffload, isAssisted)
  const score = (prefillers: readonly Prefiller[], decoders: readonly Decoder[]): ScoredPair[] =>
    scorePairs(prefillers, decoders, { prefillTokens, answerTokens }, costs, prefix)
  const board: PickBoard = {
    ...{ candidates, prefix, costs, answerTokens, score },
    isOffloadAsked: isRemote(input.attention.wish),
    turn: input.turn ?? 0,
  }
  const { pick = 'house' } = policy
  const { ranked, prefillRule, decodeRule } = (typeof pick === 'string' ? PICKS[pick] : pick).pick(board)
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
