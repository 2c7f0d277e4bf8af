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
import {
  type AttentionInput,
  AttentionPlacement,
  canAttend,
  choosesPages,
  looksForAttendants,
  needsPages,
} from './attention-placement.js'
import { hashCount } from './block-hashes.js'
import type { ClusterView, DeviceView } from './cluster-view.js'
import type { CostModel } from './cost-model.js'
import {
  type Decision,
  type DecodeRule,
  FILTER_REASONS,
  type Filtered,
  type FilterReason,
  PAIRS_KEPT,
  type PassedOver,
  type PlacedRole,
  type PrefillRule,
} from './decision.js'
import type { ProfileName, Role } from './facts.js'
import { BLOCK_TOKENS, poolBytes } from './kv-blocks.js'
import type { KvDirectory } from './kv-directory.js'
import type { LoadedModel } from './loaded-model.js'
import {
  type Candidate,
  comparePairs,
  type Decoder,
  holders,
  isFaster,
  isMuchFaster,
  type Prefiller,
  planned,
  quickest,
  type ScoredPair,
  scorePairs,
} from './pairs.js'
import { PrefixChoice, type Prompt } from './prefix-choice.js'
import type { StageCosts } from './stage-costs.js'

/** Tokens generated are not known in advance; no more than this many are weighed. */
const TOKENS_WEIGHED_MAX = 256
const ROLES = ['prefill', 'decode'] as const
const PLACED_ROLES = [...ROLES, 'attend'] as const

/** What placement looks at. */
export interface PlacementView {
  readonly view: ClusterView
  readonly costs: CostModel
  readonly stageCosts: StageCosts
  readonly directory: KvDirectory
}

export interface PlacementInput extends Prompt {
  readonly requestId: string
  readonly epoch: number
  readonly modelDigest: string
  /** To be tried, the one that was asked for first. A pair has one profile. */
  readonly profiles: readonly ProfileName[]
  /** Tokens to reserve room for on the decoding device. */
  readonly reserveTokens: number
  /** Most tokens still to come. */
  readonly tokensLeft: number
  readonly attention: AttentionInput
  readonly movedBecause: string | null
}

export interface PlacementLimits {
  readonly protocolVersion: number
  readonly protocolVersionMin: number
}

export type PlacementOutcome =
  | { readonly placed: true; readonly decision: Decision }
  /** Nothing could be placed in any of the profiles. */
  | { readonly placed: false; readonly tried: readonly PassedOver[] }

/** Whether some device could keep the prompt and some device all of it, if they held nothing else. */
export function fitsEmptyDevices(input: PlacementInput, profile: ProfileName, view: ClusterView): boolean {
  const fits = (role: Role, tokens: number): boolean =>
    [...view.devices()].some(({ facts, ref }) => {
      const model = view.model(ref, { digest: input.modelDigest, profile })
      if (!model?.isThere || !facts.capabilities.includes(role)) return false
      return poolBytes(model.facts, tokens) <= model.kvBytesMax
    })
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
  const prefix = new PrefixChoice(input, view, costs, directory, nowMs)
  const counts: Record<PlacedRole, number[]> = {
    prefill: FILTER_REASONS.map(() => 0),
    decode: FILTER_REASONS.map(() => 0),
    attend: FILTER_REASONS.map(() => 0),
  }
  const turnAway = (role: PlacedRole, reason: FilterReason): void => {
    const index = FILTER_REASONS.indexOf(reason)
    counts[role][index] = (counts[role][index] ?? 0) + 1
  }
  const able: Record<PlacedRole, LoadedModel[]> = { prefill: [], decode: [], attend: [] }
  const tokens = tokensWeighed(input)
  const mayOffload = looksForAttendants(input.attention, input.prefillTokens, tokens)
  for (const device of view.devices()) {
    // Who has no model at all, such as a host agent, is no device that could be turned away.
    if (device.facts.models.length === 0) continue
    for (const role of mayOffload ? PLACED_ROLES : ROLES) {
      const found = filter(device, profile, role, input, view, limits, nowMs)
      if (typeof found === 'string') turnAway(role, found)
      else able[role].push(found)
    }
  }
  const context = { contextTokens: input.prefillTokens, steps: tokens }
  const attention = new AttentionPlacement(input.attention, context, cluster, able.attend)
  const prefillers = able.prefill.map((model) => ({ model, roleMs: prefix.localMs(model) }))
  const decoders = able.decode.flatMap((model) => {
    const plan = attention.plan(model)
    if (!plan) turnAway('decode', 'attend')
    return plan ? { model, attention: plan, roleMs: plan.stepMs } : []
  })
  const score = (prefillers: readonly Prefiller[], decoders: readonly Decoder[]): ScoredPair[] =>
    scorePairs(prefillers, decoders, { prefillTokens, answerTokens: tokens }, costs, prefix)
  const prefilling = planned(preferred(prefillers, 'prefill'), prefix)
  const [decodeFirst, prefillFirst] = splitBy(decoders, 'decode')
  const usual = score(prefilling, quickest(decodeFirst))
  const unusual = score(prefilling, quickest(prefillFirst))
  const bestUsual = usual[0]
  const bestUnusual = unusual[0]
  let decodeRule: DecodeRule = 'free-slot'
  let ranked = [...usual, ...unusual]
  const isOffloadAsked = isRemote(input.attention.wish)
  if (isOffloadAsked && bestUnusual?.decoder.attention.attend) {
    decodeRule = 'offloads'
    ranked = [...unusual, ...usual]
  } else if (!bestUsual) {
    decodeRule = 'no-free-slot'
  } else if (bestUnusual && isMuchFaster(bestUnusual, bestUsual)) {
    decodeRule = 'much-faster'
    ranked = [...unusual, ...usual]
  }
  let prefillRule: PrefillRule =
    prefilling[0]?.model.prefers === 'prefill' ? 'prefers-prefill' : 'only-one-left'
  const alone = holders(isOffloadAsked ? [] : prefillers, decoders, prefix).flatMap((holder) => {
    return score(planned([holder], prefix), [holder.decoder])
  })
  const bestAlone = alone.sort(comparePairs)[0]
  if (prefillRule === 'prefers-prefill' && bestAlone && ranked[0] && isFaster(bestAlone, ranked[0])) {
    prefillRule = 'holds-prefix'
    decodeRule = 'free-slot'
    ranked = [bestAlone, ...ranked]
  }
  const best = ranked[0]
  if (!best) return { filtered: counts }
  const { model } = best.decoder
  return {
    decision: {
      requestId: input.requestId,
      epoch: input.epoch,
      prefill: best.prefill,
      decode: best.decode,
      profile,
      numerics: model.facts.numerics,
      prefillNumerics: best.prefiller.model.facts.numerics,
      ttftMs: best.ttftMs,
      tpotMs: best.tpotMs,
      prefillRule,
      decodeRule,
      prefix: {
        ...best.prefiller.plan,
        blocks: hashCount(input.blockHashes),
        heldByDecodeTokens: best.heldByDecodeTokens,
      },
      // Now that it is known who prefills, and so prepares.
      attention: attention.plan(model, best.prefiller.model.device) ?? best.decoder.attention,
      movedBecause: input.movedBecause,
      weighed: ranked.slice(0, PAIRS_KEPT).map(({ prefill, decode, ttftMs, tpotMs }) => {
        return { prefill, decode, ttftMs, tpotMs }
      }),
      filtered: counts,
      passedOver: null,
    },
  }
}

/** The model on the device, or the first reason against it in this role. */
function filter(
  device: DeviceView,
  profile: ProfileName,
  role: PlacedRole,
  input: PlacementInput,
  view: ClusterView,
  limits: PlacementLimits,
  nowMs: number,
): FilterReason | LoadedModel {
  const { facts } = device
  const state = view.state(facts.deviceId, nowMs)
  if (state !== 'ready') return state
  const isSpoken =
    facts.protocolVersion >= limits.protocolVersionMin && facts.protocolVersionMin <= limits.protocolVersion
  if (!isSpoken) return 'protocol'
  const model = view.model(device.ref, { digest: input.modelDigest, profile })
  if (!model?.isThere || model.facts.contextTokensMax < input.prefillTokens) return 'model'
  if (!facts.capabilities.includes(role)) return 'capability'
  const pages = Math.floor(input.prefillTokens / BLOCK_TOKENS)
  if (role === 'attend' && !canAttend(facts, pages)) return 'capability'
  const isPaged = role === 'attend' || (role === 'decode' && needsPages(input.attention))
  if (isPaged && model.facts.slidingWindowTokens !== undefined) return 'sliding-window'
  if (role === 'decode' && isPaged && !choosesPages(facts)) return 'capability'
  const tokens = { prefill: input.prefillTokens, decode: input.reserveTokens, attend: pages * BLOCK_TOKENS }
  const bytes = poolBytes(model.facts, tokens[role])
  if (bytes > model.kvBytesMax) return 'too-small'
  if (input.avoids(facts.deviceId)) return 'failed-before'
  if (view.isRefusing(facts.deviceId, nowMs)) return 'refused'
  if (role === 'decode' && model.slotsUsed >= facts.decodeSlots) return 'slots'
  if (bytes > model.kvBytesFree) return 'memory'
  return model
}

/** Of the answer, whose length is not known in advance. */
function tokensWeighed(input: PlacementInput): number {
  return Math.min(input.tokensLeft, TOKENS_WEIGHED_MAX)
}

/** Those that prefer the role; all of them where none does. */
function preferred<T extends Candidate>(candidates: readonly T[], role: Role): readonly T[] {
  const [first, second] = splitBy(candidates, role)
  return first.length > 0 ? first : second
}

function splitBy<T extends Candidate>(candidates: readonly T[], role: Role): [readonly T[], readonly T[]] {
  const first = candidates.filter((candidate) => candidate.model.prefers === role)
  const second = candidates.filter((candidate) => candidate.model.prefers !== role)
  return [first, second]
}
