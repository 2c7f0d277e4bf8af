/**
 * A request's attention with all that is told of it: chosen by its times alone, then planned with its stages
 * and their alternatives, and the reason.
 */
import { type AttentionAsk, chooseWay, remotePlaces } from './attention-choice.js'
import { type AttentionPlan, PAGE_TOKENS, pagesOf, pagesWithin } from './attention-plan.js'
import { attentionReason } from './attention-reason.js'
import { type AttentionSite, planAttention } from './attention-stages.js'
import { AttentionTimes } from './attention-times.js'
import type { DeviceFacts } from './facts.js'

/**
 * The plan for one decoding device and those that could attend for it, which are able to and have the
 * memory. Undefined where the client's place binds and cannot be had. `times`: those of the request, where others
 * were weighed before.
 */
export function chooseAttention(
  ask: AttentionAsk,
  site: AttentionSite,
  attendants: readonly DeviceFacts[],
  times = new AttentionTimes(ask.contextTokens, site),
): AttentionPlan | undefined {
  const { model, decode, prefill } = site
  times.at(decode, model, ask.batch, attendants, prefill)
  const chosen = chooseWay(ask, { ...site, hasAttendants: attendants.length > 0 }, times)
  if (!chosen) return undefined
  const { way, method, budget } = chosen
  const pages = pagesOf(ask.contextTokens)
  const promptPages = Math.floor(ask.contextTokens / PAGE_TOKENS)
  const pagesRead = pagesWithin(budget, pages)
  const { method: wished = 'auto', place: wishedPlace = 'auto' } = ask.wish ?? {}
  // Dense attention on the decoding device is no pipeline.
  const isPlain = method === 'dense' && way.attend === null
  const places = way.attend === null ? (['local'] as const) : remotePlaces(ask.wish, method)
  const planned = isPlain
    ? undefined
    : planAttention({ method, pages, pagesRead, promptPages }, site, places, attendants)
  return {
    ...way,
    method,
    budget,
    attendPages: way.attend ? promptPages : 0,
    promptPages: pages,
    budgetPages: pagesRead,
    stages: planned?.plan.stages ?? [],
    asked: wished !== 'auto' || wishedPlace !== 'auto',
    reason: attentionReason(chosen, decode.deviceId),
  }
}
