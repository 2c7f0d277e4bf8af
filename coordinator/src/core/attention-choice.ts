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
  budgetText,
  PAGE_TOKENS,
  pagesOf,
  pagesWithin,
} from './attention-plan.js'
import { type AttentionSite, planAttention } from './attention-stages.js'
import type { AttentionMethodName, AttentionWish } from './attention-wish.js'
import type { DeviceFacts } from './facts.js'

/** LServe's budget. */
export const DEFAULT_BUDGET_TOKENS = 4_096
/** A plan that differs from the plain one must be predicted to take at most this share of its time. */
const WORTH_IT = 0.9

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

export function isRemote(wish: AttentionWish | undefined): boolean {
  return wish?.place === 'partial' || wish?.place === 'indices'
}

/**
 * The plan for one decoding device and those that could attend for it, which are able to and have the
 * memory. Undefined where the client's place binds and cannot be had.
 */
export function chooseAttention(
  ask: AttentionAsk,
  site: AttentionSite,
  attendants: readonly DeviceFacts[],
): AttentionPlan | undefined {
  const { wish, settled } = ask
  if (site.model.slidingWindowTokens !== undefined) {
    // Its layers see different pages, which page bounds and devices that attend for others know nothing of.
    const why = 'Attention is dense, as the model has a sliding window'
    return choosePlace({ ...ask, wish: undefined }, site, [], 'dense', null, why)
  }
  if (settled && (wish?.method ?? 'auto') === 'auto') {
    const why = `Attention is ${methodText(settled.method, settled.budget)}, as when the request began`
    return choosePlace(ask, site, attendants, settled.method, settled.budget, why)
  }
  const method = wish?.method ?? 'auto'
  if (method !== 'auto') {
    const budget = wish?.budget ?? null
    const why = `Attention is ${methodText(method, budget)}, as asked`
    return choosePlace(ask, site, attendants, method, budget, why)
  }
  const withDense = (why: string) => choosePlace(ask, site, attendants, 'dense', null, why)
  const budget = { tokens: DEFAULT_BUDGET_TOKENS }
  const withBounds = (why: string) => choosePlace(ask, site, attendants, 'page-bounds', budget, why)
  if (wish?.place === 'indices' && attendants.length > 0) {
    return withBounds('Attention is by page bounds, which the place that was asked for needs')
  }
  const longest = ask.contextTokens + site.steps
  if (longest <= DEFAULT_BUDGET_TOKENS) {
    return withDense(`Attention is dense, as for all of up to ${budgetText(budget)}`)
  }
  if (!ask.isSparseDefault) return withDense('Attention is dense, as this coordinator is set')
  if (!ask.choosesPages)
    return withDense(`Attention is dense, the only one that ${site.decode.deviceId} knows`)
  const dense = withDense('')
  const bounds = withBounds('')
  if (!dense || !bounds) return dense ?? bounds
  const times = `${msText(bounds.stepMs)} a step is predicted for page bounds and ${msText(dense.stepMs)} for dense`
  const isWorthIt = bounds.stepMs <= WORTH_IT * dense.stepMs
  return isWorthIt
    ? withBounds(`Attention is ${methodText('page-bounds', budget)}: ${times}`)
    : withDense(`Attention is dense, although long: ${times}`)
}

function choosePlace(
  ask: AttentionAsk,
  site: AttentionSite,
  attendants: readonly DeviceFacts[],
  method: AttentionMethodName,
  budget: AttentionBudget | null,
  why: string,
): AttentionPlan | undefined {
  const shape = {
    method,
    pages: pagesOf(ask.contextTokens),
    pagesRead: pagesWithin(budget, pagesOf(ask.contextTokens)),
    promptPages: Math.floor(ask.contextTokens / PAGE_TOKENS),
  }
  const place = ask.wish?.place ?? 'auto'
  const plan = (places: readonly AttentionPlace[], reason: string): AttentionPlan | undefined => {
    const isPlain = method === 'dense' && places.every((one) => one === 'local')
    const planned = isPlain ? PLAIN : planAttention(shape, site, places, attendants)
    if (!planned) return undefined
    const { deviceId, incarnation } = planned.attend ?? {}
    return {
      method,
      budget,
      place: planned.place,
      attend: deviceId !== undefined && incarnation !== undefined ? { deviceId, incarnation } : null,
      attendPages: planned.attend ? shape.promptPages : 0,
      promptPages: shape.pages,
      budgetPages: shape.pagesRead,
      stepMs: isPlain ? denseStepMs(ask, site) : restMs(ask, site) + planned.plan.totalMs,
      stages: planned.plan.stages,
      asked: (ask.wish?.method ?? 'auto') !== 'auto' || place !== 'auto',
      reason: reason === '' ? `${why}.` : `${why}; ${reason}.`,
    }
  }
  const self = site.decode.deviceId
  const canBeRemote = mayOffload(ask, site.steps) && attendants.length > 0
  if (place !== 'auto' && place !== 'local') {
    const remote = canBeRemote ? plan([place], '') : undefined
    if (remote?.attend) {
      return { ...remote, reason: `${why}; ${remote.attend.deviceId} ${ATTENDS[place]}, as asked.` }
    }
    if (shape.promptPages === 0) return plan(['local'], `${self} attends, since the prompt fills no page`)
    if (ask.isPlaceBinding) return undefined
    return plan(['local'], `${self} attends, since no other device is left that could`)
  }
  const local = plan(['local'], place === 'local' ? `${self} attends, as asked` : '')
  const remotePlaces = method === 'dense' ? (['partial'] as const) : (['partial', 'indices'] as const)
  const remote = place === 'auto' && canBeRemote ? plan(remotePlaces, '') : undefined
  if (!local || !remote?.attend || remote.place === 'local') return local
  const other = remote.attend.deviceId
  if (remote.stepMs <= WORTH_IT * local.stepMs) {
    const times = `a step is predicted to take ${msText(remote.stepMs)}, and ${msText(local.stepMs)} on ${self} alone`
    return { ...remote, reason: `${why}; ${other} ${ATTENDS[remote.place]}: ${times}.` }
  }
  const times = `a step is predicted to take ${msText(local.stepMs)}, and ${msText(remote.stepMs)} with ${other}`
  return { ...local, reason: `${why}; ${self} attends: ${times}.` }
}

/** Dense attention on the decoding device, which is no pipeline. */
const PLAIN = { place: 'local', attend: null, plan: { stages: [], totalMs: 0, runnerUp: null } } as const

const ATTENDS: Record<Exclude<AttentionPlace, 'local'>, string> = {
  partial: 'attends to the prompt',
  indices: 'chooses the pages',
}

function methodText(method: AttentionMethodName, budget: AttentionBudget | null): string {
  const name = method === 'page-bounds' ? 'by page bounds' : method
  return budget ? `${name} with a budget of ${budgetText(budget)}` : name
}

/** With the context at its longest. */
function denseStepMs(ask: AttentionAsk, { costs, decode, model, steps }: AttentionSite): number {
  return costs.stepMs(decode, model, ask.batch, ask.contextTokens + steps)
}

/** A step without this sequence's own attention: weights, and the other sequences'. */
function restMs(ask: AttentionAsk, { costs, decode, model, steps }: AttentionSite): number {
  const othersTokens = (ask.contextTokens + steps) * (ask.batch - 1)
  return costs.stepMs(decode, model, ask.batch, othersTokens / ask.batch)
}

function msText(ms: number): string {
  return `${Number(ms.toPrecision(3))} ms`
}
