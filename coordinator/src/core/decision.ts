/**
 * What a placement decided and what it weighed, in compact arrays; text is rendered
 * only when somebody asks.
 */
import type { AttentionPlan } from './attention-plan.js'
import type { DeviceRef, ProfileName, Role } from './facts.js'
import type { PrefixPlan } from './prefix-plan.js'

/** Why a device may be turned away, in the order in which it is checked. */
export const FILTER_REASONS = [
  'lost',
  'draining',
  'protocol',
  'model',
  'capability',
  'sliding-window',
  'too-small',
  'failed-before',
  'refused',
  'slots',
  'memory',
  'attend',
  'assist',
] as const
export type FilterReason = (typeof FILTER_REASONS)[number]

/** What a device may be turned away from: the two roles, and attending for a device that decodes. */
export type PlacedRole = Role | 'attend'

/** Devices turned away, by position in FILTER_REASONS; each device counts once. */
export type FilterCounts = readonly number[]

/** Why a device was taken by a policy that is not the house rule. */
export type PolicyRule = 'earliest-finish' | 'emptiest' | 'in-turn'

/** Why this device prefills. */
export type PrefillRule =
  /** It lists prefill before decode. */
  | 'prefers-prefill'
  /** No device that prefers prefill is left. */
  | 'only-one-left'
  /** It decodes, holds the beginning of the prompt, and is predicted to be faster than having it prefilled elsewhere. */
  | 'holds-prefix'
  /** The coordinator is set to another policy than the house rule. */
  | PolicyRule

/** Why this device decodes. */
export type DecodeRule =
  /** It lists decode before prefill and has a free slot. */
  | 'free-slot'
  /** No device that prefers decode has a free slot. */
  | 'no-free-slot'
  /** It is predicted to be several times as fast as the best device that prefers decode. */
  | 'much-faster'
  /** Another device attends, as the client asked, and keeps its decode slots. */
  | 'offloads'
  | PolicyRule

export interface WeighedPair {
  readonly prefill: DeviceRef
  readonly decode: DeviceRef
  readonly ttftMs: number
  readonly tpotMs: number
}

/** What is reused of what was computed before, and what was thought of the rest. */
export interface PrefixDecision extends PrefixPlan {
  /** Full blocks of the prompt; 0 where the request reuses nothing. */
  readonly blocks: number
  /** Tokens that the decoding device holds itself, so that they are not sent; 0 where it prefills. */
  readonly heldByDecodeTokens: number
}

export interface Decision {
  readonly requestId: string
  readonly epoch: number
  readonly prefill: DeviceRef
  readonly decode: DeviceRef
  /** Of both devices. */
  readonly profile: ProfileName
  /** In which numbers the decoding device computes. */
  readonly numerics: string
  /** In which the prefilling one does. */
  readonly prefillNumerics: string
  readonly ttftMs: number
  readonly tpotMs: number
  readonly prefillRule: PrefillRule
  readonly decodeRule: DecodeRule
  readonly prefix: PrefixDecision
  readonly attention: AttentionPlan
  /** Why the request had to be placed again; null for the first time. */
  readonly movedBecause: string | null
  /** The best pairs, at most PAIRS_KEPT, the chosen one first. */
  readonly weighed: readonly WeighedPair[]
  readonly filtered: Filtered
  /** The profile that was asked for, where no pair of devices could take the request in it. */
  readonly passedOver: PassedOver | null
}

/** Devices turned away from each role, by reason. */
export type Filtered = Readonly<Record<PlacedRole, FilterCounts>>

/** A profile in which nothing could be placed. */
export interface PassedOver {
  readonly profile: ProfileName
  readonly filtered: Filtered
}

export const PAIRS_KEPT = 8

/** The counts that are not zero, by name. */
export function filterCounts(counts: FilterCounts): Record<string, number> {
  const named: Record<string, number> = {}
  for (const reason of FILTER_REASONS) {
    const count = countOf(counts, reason)
    if (count > 0) named[reason] = count
  }
  return named
}

const POLICY_TEXT: Record<PolicyRule, string> = {
  'earliest-finish': 'as part of the pair that is predicted to finish first',
  emptiest: 'which has the least to do of those bound to it',
  'in-turn': 'whose turn it is',
}
const PREFILL_TEXT: Record<PrefillRule, string> = {
  ...POLICY_TEXT,
  'prefers-prefill': 'which is best at it',
  'only-one-left': 'since no device that prefers prefill is left',
  'holds-prefix': 'which holds the beginning of the prompt',
}
const DECODE_TEXT: Record<DecodeRule, string> = {
  ...POLICY_TEXT,
  'free-slot': 'which has a free decode slot',
  'no-free-slot': 'since no device that prefers decoding has a free slot',
  'much-faster': 'which is predicted to be several times as fast as any device that prefers decoding',
  offloads: 'since the device that attends need not decode as well',
}

/** One clear sentence for a person. */
export function explain(decision: Decision): string {
  const prefill = `${decision.prefill.deviceId} prefills, ${PREFILL_TEXT[decision.prefillRule]}`
  const decode = `${decision.decode.deviceId} decodes, ${DECODE_TEXT[decision.decodeRule]}`
  const again = decision.movedBecause ? `Placed again because ${decision.movedBecause}: ` : ''
  const profile = explainProfile(decision)
  return `${again}${prefill}, and ${decode}.${profile}${explainPrefix(decision.prefix)}${explainAttention(decision)}`
}

/** A sentence more where another profile serves the request than it asked for. */
function explainProfile({ passedOver, profile }: Decision): string {
  if (!passedOver) return ''
  const why = explainNoPlacement([passedOver])
  return ` It runs in profile ${profile}, since no pair of devices could take it in profile ${passedOver.profile} (${why}).`
}

/** A sentence more where attention is not plain: dense, on the device that decodes. */
function explainAttention({ attention: { method, attend, reason } }: Decision): string {
  return method === 'dense' && !attend ? '' : ` ${reason}`
}

/** A sentence more where something is reused. */
function explainPrefix({ localTokens, fetch, heldByDecodeTokens }: PrefixDecision): string {
  const parts: string[] = []
  if (localTokens > 0) parts.push(`${localTokens} tokens of the prompt are there already`)
  if (fetch) {
    const times = `${fetch.fetchMs.toFixed(1)} ms predicted, ${fetch.computeMs.toFixed(1)} ms to compute them`
    parts.push(`${fetch.tokens - localTokens} tokens come from ${fetch.device.deviceId} (${times})`)
  }
  if (heldByDecodeTokens > 0)
    parts.push(`${heldByDecodeTokens} tokens need not be sent to the decoding device`)
  return parts.length > 0 ? ` ${parts.join('; ')}.` : ''
}

/** One sentence on why nothing could be placed in one profile, or in any of several. */
export function explainNoPlacement(tried: readonly PassedOver[]): string {
  const [only] = tried
  if (only && tried.length === 1) return turnedAway(only.filtered)
  return tried.map(({ profile, filtered }) => `in profile ${profile} ${turnedAway(filtered)}`).join('; ')
}

function turnedAway(filtered: Filtered): string {
  const list = (role: PlacedRole): string[] => {
    const reasons = FILTER_REASONS.flatMap((reason) => {
      const count = countOf(filtered[role], reason)
      return count > 0 ? [`${count} ${FILTER_TEXT[reason]}`] : []
    })
    return reasons.length > 0 ? [`${role}: ${reasons.join(', ')}`] : []
  }
  const roles = [...list('prefill'), ...list('decode'), ...list('attend')]
  return roles.length > 0
    ? `devices turned away for ${roles.join('; for ')}`
    : 'no device that computes is known'
}

/** What to do after that. */
export function stepAfterNoPlacement(tried: readonly PassedOver[]): string {
  if (!isHopeless(tried)) return 'try again'
  const isWindowed = tried.some(({ filtered }) => countOf(filtered.decode, 'sliding-window') > 0)
  return isWindowed
    ? 'ask for dense attention, or for none in particular'
    : 'shorten the prompt or the answer, or give the devices more memory for KV'
}

/** Reasons that no waiting changes; those of the first kind are of the request, and others of the cluster. */
const OF_THE_REQUEST: readonly FilterReason[] = ['too-small', 'sliding-window']
const LASTING: readonly FilterReason[] = [...OF_THE_REQUEST, 'model', 'capability']

/** Whether waiting does not help, whichever profile is taken: the devices that have the model will never do. */
export function isHopeless(tried: readonly PassedOver[]): boolean {
  const stuck = tried.map(({ filtered }) =>
    [filtered.prefill, filtered.decode].filter((counts) =>
      FILTER_REASONS.every((reason) => LASTING.includes(reason) || countOf(counts, reason) === 0),
    ),
  )
  const isAsking = (counts: FilterCounts) => OF_THE_REQUEST.some((reason) => countOf(counts, reason) > 0)
  return stuck.every((roles) => roles.length > 0) && stuck.some((roles) => roles.some(isAsking))
}

function countOf(counts: FilterCounts, reason: FilterReason): number {
  return counts[FILTER_REASONS.indexOf(reason)] ?? 0
}

/** Each after a number of devices. */
export const FILTER_TEXT: Readonly<Record<FilterReason, string>> = {
  lost: 'not heard from',
  draining: 'draining',
  protocol: 'of another protocol version',
  model: 'without the model',
  capability: 'not able to',
  'sliding-window': 'whose model has a sliding window and attends densely by itself',
  'failed-before': 'failed this request before',
  refused: 'just refused',
  slots: 'without a free slot',
  'too-small': 'too small for it even when empty',
  memory: 'without enough memory at the moment',
  attend: 'without another device that could attend for it',
  assist: 'kept for prefill, as this coordinator is set',
}
