/**
 * Chooses how a request's decoding attends: the method with its budget, and whether the decoding device
 * attends itself or another one does for it.
 *
 * Method: the client's; else dense while the context fits DEFAULT_BUDGET_TOKENS (LServe skips the
 * selection there), and above it page bounds with that budget where a step is predicted to take at most
 * WORTH_IT of a dense one. Place: the client's; else by the predicted time of a step, and another device
 * only where that is predicted to take at most WORTH_IT of attending alone.
 */
import {
  type AttentionBudget,
  type AttentionPlace,
  type AttentionPlan,
  PAGE_TOKENS,
} from './attention-plan.js'
import type { AttentionMethodName, AttentionWish } from './attention-wish.js'
import type { DeviceFacts, DeviceRef, ModelFacts } from './facts.js'

/** LServe's budget. */
export const DEFAULT_BUDGET_TOKENS = 4_096
const DEFAULT_BUDGET = { tokens: DEFAULT_BUDGET_TOKENS }
/** A plan that differs from the plain one must be predicted to take at most this share of its time. */
export const WORTH_IT = 0.9

export interface AttentionAsk {
  readonly wish: AttentionWish | undefined
  /** Whether requests that ask for nothing may get sparse attention. */
  readonly isSparseDefault: boolean
  /** Method and budget that an earlier placement of the request began with: they stay. */
  readonly settled: Pick<AttentionPlan, 'method' | 'budget'> | null
  /** Whether a place on another device that cannot be had is a failure, and not a reason to attend locally. */
  readonly isPlaceBinding: boolean
  /** Tokens whose KV is there when decoding begins. */
  readonly contextTokens: number
  /** Whether the decoding device knows sparse attention. */
  readonly choosesPages: boolean
  /** Sequences that share a step of the decoding device, this one included. */
  readonly batch: number
}

/** Whether a request that asks for this may be decoded by one device while another attends. */
export function mayOffload(
  ask: Pick<AttentionAsk, 'wish' | 'settled' | 'isSparseDefault' | 'contextTokens'>,
  steps: number,
): boolean {
  if (ask.wish?.place === 'local' || Math.floor(ask.contextTokens / PAGE_TOKENS) === 0) return false
  const method = ask.settled?.method ?? ask.wish?.method ?? 'auto'
  if (method === 'random' || method === 'recent') return false
  const isLong = ask.contextTokens + steps > DEFAULT_BUDGET_TOKENS
  const isAsked = ask.wish !== undefined && ask.wish.method !== 'auto'
  return isRemote(ask.wish) || isAsked || (ask.isSparseDefault && isLong)
}

/**
 * Whether decoding is dense on the decoding device unless another way is predicted to take at most WORTH_IT of
 * its time.
 */
export function startsDense({ wish, settled }: Pick<AttentionAsk, 'wish' | 'settled'>): boolean {
  const method = wish?.method ?? 'auto'
  return !isRemote(wish) && (method === 'auto' ? (settled?.method ?? 'dense') : method) === 'dense'
}

export function isRemote(wish: AttentionWish | undefined): boolean {
  return wish?.place === 'partial' || wish?.place === 'indices'
}

/** What is compared of a way to attend. */
export interface AttentionWay {
  /** Of one decode step, milliseconds. */
  readonly stepMs: number
  readonly place: AttentionPlace
  /** Null where the decoding device attends itself. */
  readonly attend: DeviceRef | null
}

/** Predicts ways to attend: with all their stages, or their times alone. */
export interface AttentionPlanner<Way extends AttentionWay> {
  local(method: AttentionMethodName, budget: AttentionBudget | null): Way
  /**
   * The best one of the places on other devices; undefined where there is none. Of one that takes longer than
   * `usefulMs` nothing need be known.
   */
  remote(
    method: AttentionMethodName,
    budget: AttentionBudget | null,
    places: readonly RemotePlace[],
    usefulMs: number,
  ): Way | undefined
}

export type RemotePlace = Exclude<AttentionPlace, 'local'>

/** Why a method was chosen. */
type WhyMethod =
  | 'window'
  | 'settled'
  | 'asked'
  /** The place that was asked for needs it. */
  | 'place'
  | 'short'
  | 'set'
  /** The decoding device knows no other. */
  | 'only'
  /** Predicted times of a step, in ChosenAttention.methodMs. */
  | 'times'

/** Why a place was chosen. */
type WhyPlace = 'asked' | 'nobody' | 'no-page' | 'only' | 'times'

/** What was chosen, and from what: enough to tell why. */
export interface ChosenAttention<Way extends AttentionWay> {
  readonly way: Way
  readonly method: AttentionMethodName
  readonly budget: AttentionBudget | null
  readonly whyMethod: WhyMethod
  readonly whyPlace: WhyPlace
  /** The best way of the other kind of place, where times decided. */
  readonly rival: Way | undefined
  /** Of the other method, where times decided. */
  readonly otherMethodMs: number
}

/** The device that decodes, and how many steps it is expected to. */
export interface DecodeSite {
  readonly model: ModelFacts
  readonly decode: Pick<DeviceFacts, 'deviceId'>
  readonly steps: number
  /** Whether other devices are there that could attend, with the memory. */
  readonly hasAttendants: boolean
}

/** Undefined where the client's place binds and cannot be had. */
export function chooseWay<Way extends AttentionWay>(
  ask: AttentionAsk,
  site: DecodeSite,
  planner: AttentionPlanner<Way>,
): ChosenAttention<Way> | undefined {
  const { wish, settled } = ask
  const method = wish?.method ?? 'auto'
  if (site.model.slidingWindowTokens !== undefined) {
    // Its layers see different pages, which page bounds and devices that attend for others know nothing of.
    const way = planner.local('dense', null)
    const chosen = { way, method: 'dense', budget: null, rival: undefined, otherMethodMs: 0 } as const
    return { ...chosen, whyMethod: 'window', whyPlace: 'only' }
  }
  if (settled && method === 'auto') {
    return choosePlace(ask, site, planner, settled.method, settled.budget, 'settled')
  }
  if (method !== 'auto') return choosePlace(ask, site, planner, method, wish?.budget ?? null, 'asked')
  if (wish?.place === 'indices' && site.hasAttendants) {
    return choosePlace(ask, site, planner, 'page-bounds', DEFAULT_BUDGET, 'place')
  }
  const why = whyDense(ask, site)
  const dense = choosePlace(ask, site, planner, 'dense', null, why ?? 'times')
  if (why) return dense
  const bounds = choosePlace(ask, site, planner, 'page-bounds', DEFAULT_BUDGET, 'times')
  if (!dense || !bounds) return dense ?? bounds
  const [best, other] = isWorth(bounds.way, dense.way) ? [bounds, dense] : [dense, bounds]
  return { ...best, otherMethodMs: other.way.stepMs }
}

/** Why a request that asks for no method gets dense attention; undefined where times decide. */
function whyDense(ask: AttentionAsk, { steps }: DecodeSite): WhyMethod | undefined {
  if (ask.contextTokens + steps <= DEFAULT_BUDGET_TOKENS) return 'short'
  if (!ask.isSparseDefault) return 'set'
  return ask.choosesPages ? undefined : 'only'
}

function choosePlace<Way extends AttentionWay>(
  ask: AttentionAsk,
  site: DecodeSite,
  planner: AttentionPlanner<Way>,
  method: AttentionMethodName,
  budget: AttentionBudget | null,
  whyMethod: WhyMethod,
): ChosenAttention<Way> | undefined {
  const place = ask.wish?.place ?? 'auto'
  const canBeRemote = site.hasAttendants && mayOffload(ask, site.steps)
  const chosen = (way: Way, whyPlace: WhyPlace, rival?: Way): ChosenAttention<Way> => {
    return { way, method, budget, whyMethod, whyPlace, rival, otherMethodMs: 0 }
  }
  if (place === 'partial' || place === 'indices') {
    const places = remotePlaces(ask.wish, method)
    const remote = canBeRemote ? planner.remote(method, budget, places, Number.POSITIVE_INFINITY) : undefined
    if (remote) return chosen(remote, 'asked')
    const isPaged = Math.floor(ask.contextTokens / PAGE_TOKENS) > 0
    if (isPaged && ask.isPlaceBinding) return undefined
    return chosen(planner.local(method, budget), isPaged ? 'nobody' : 'no-page')
  }
  const local = planner.local(method, budget)
  if (place === 'local') return chosen(local, 'asked')
  const usefulMs = WORTH_IT * local.stepMs
  const places = remotePlaces(ask.wish, method)
  const remote = canBeRemote ? planner.remote(method, budget, places, usefulMs) : undefined
  if (!remote) return chosen(local, 'only')
  return isWorth(remote, local) ? chosen(remote, 'times', local) : chosen(local, 'times', remote)
}

function isWorth(other: AttentionWay, plain: AttentionWay): boolean {
  return other.stepMs <= WORTH_IT * plain.stepMs
}

/** The places on another device that a request may be given. */
export function remotePlaces(
  wish: AttentionWish | undefined,
  method: AttentionMethodName,
): readonly RemotePlace[] {
  if (wish?.place === 'partial') return PARTIAL
  if (wish?.place === 'indices') return INDICES
  // Dense attention has no pages to choose.
  return method === 'dense' ? PARTIAL : BOTH
}

const PARTIAL: readonly RemotePlace[] = ['partial']
const INDICES: readonly RemotePlace[] = ['indices']
const BOTH: readonly RemotePlace[] = ['partial', 'indices']
