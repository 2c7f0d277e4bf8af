/**
 * How a request's decoding attends, as planned.
 *
 * A page is a KV block of 16 tokens. With a budget each KV head attends to
 * max(1, min(n, ceil(tokens / 16) or ceil(share · n))) of the sequence's n pages.
 */
import type { AttentionMethodName, AttentionWish } from './attention-wish.js'
import type { DeviceRef } from './facts.js'
import type { StagePlan } from './stage-plan.js'

export const PAGE_TOKENS = 16

export type AttentionBudget = NonNullable<AttentionWish['budget']>
export type AttentionPlace = Exclude<AttentionWish['place'], 'auto'>

export interface AttentionPlan {
  readonly method: AttentionMethodName
  /** Null for dense. */
  readonly budget: AttentionBudget | null
  readonly place: AttentionPlace
  /** The device that answers queries; null where it is the decoding one. */
  readonly attend: DeviceRef | null
  /** Full pages of the prompt, which the attending device holds; 0 where there is none. */
  readonly attendPages: number
  /** Pages of the sequence at the first decode step, and those that each KV head attends to. */
  readonly promptPages: number
  readonly budgetPages: number
  /** Of one decode step with this plan, milliseconds. */
  readonly stepMs: number
  /** The pipeline's stages, as means of one decode step; empty for dense attention on the decoding device. */
  readonly stages: StagePlan['stages']
  /** Whether the client chose the method or the place. */
  readonly asked: boolean
  /** One clear sentence. */
  readonly reason: string
}

/** Pages that hold so many tokens and the one to come. */
export function pagesOf(tokens: number): number {
  return Math.floor(tokens / PAGE_TOKENS) + 1
}

/** Of `pages` pages, how many each KV head attends to; all where there is no budget. */
export function pagesWithin(budget: AttentionBudget | null, pages: number): number {
  if (budget === null) return pages
  const wanted = 'tokens' in budget ? budget.tokens / PAGE_TOKENS : budget.share * pages
  return Math.max(1, Math.min(pages, Math.ceil(wanted)))
}

export function budgetText(budget: AttentionBudget): string {
  if ('share' in budget) return `${Number((budget.share * 100).toPrecision(4))} % of the context`
  // Thousands apart, without the library of locales, which takes longer than a placement.
  return `${String(budget.tokens).replace(/\B(?=(\d{3})+$)/g, ',')} tokens`
}
