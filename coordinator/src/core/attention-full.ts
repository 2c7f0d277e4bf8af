/**
 * A request's attention with all that is told of it: its stages with their alternatives, and the reason.
 */
import { type AttentionAsk, type AttentionPlanner, chooseWay } from './attention-choice.js'
import {
  type AttentionPlace,
  type AttentionPlan,
  PAGE_TOKENS,
  pagesOf,
  pagesWithin,
} from './attention-plan.js'
import { attentionReason } from './attention-reason.js'
import { type AttentionSite, othersTokens, planAttention } from './attention-stages.js'
import type { DeviceFacts } from './facts.js'

type Planned = Omit<AttentionPlan, 'reason'>

/**
 * The plan for one decoding device and those that could attend for it, which are able to and have the
 * memory. Undefined where the client's place binds and cannot be had.
 */
export function chooseAttention(
  ask: AttentionAsk,
  site: AttentionSite,
  attendants: readonly DeviceFacts[],
): AttentionPlan | undefined {
  const pages = pagesOf(ask.contextTokens)
  const promptPages = Math.floor(ask.contextTokens / PAGE_TOKENS)
  const { method: wished, place: wishedPlace } = ask.wish ?? {}
  const asked = (wished ?? 'auto') !== 'auto' || (wishedPlace ?? 'auto') !== 'auto'
  const stepOf = (tokens: number) => site.costs.stepMs(site.decode, site.model, ask.batch, tokens)
  const plan = (
    method: AttentionPlan['method'],
    budget: AttentionPlan['budget'],
    places: readonly AttentionPlace[],
  ): Planned | undefined => {
    const pagesRead = pagesWithin(budget, pages)
    const about = { method, budget, promptPages: pages, budgetPages: pagesRead, asked }
    // Dense attention on the decoding device is no pipeline.
    if (method === 'dense' && places.every((place) => place === 'local')) {
      const stepMs = stepOf(ask.contextTokens + site.steps)
      return { ...about, place: 'local', attend: null, attendPages: 0, stepMs, stages: [] }
    }
    const planned = planAttention({ method, pages, pagesRead, promptPages }, site, places, attendants)
    if (!planned) return undefined
    const { place, attend } = planned
    return {
      ...about,
      place,
      attend: attend && { deviceId: attend.deviceId, incarnation: attend.incarnation },
      attendPages: attend ? promptPages : 0,
      stepMs: stepOf(othersTokens(ask.contextTokens, site.steps, ask.batch)) + planned.plan.totalMs,
      stages: planned.plan.stages,
    }
  }
  const planner: AttentionPlanner<Planned> = {
    local: (method, budget) => {
      const local = plan(method, budget, ['local'])
      if (!local) throw new RangeError('Every device that decodes can attend.')
      return local
    },
    remote: plan,
  }
  const chosen = chooseWay(ask, { ...site, hasAttendants: attendants.length > 0 }, planner)
  return chosen && { ...chosen.way, reason: attentionReason(chosen, site.decode.deviceId) }
}
