/** What a request says of attention within a budget, checked; the engine says how many pages that is. */
import { type AttentionBudget, checkBudget } from '@kvasir/engine/attention-budget'
import { type Attention, AttentionMethod } from '@kvasir/proto/kvasir/inference/v1/inference'
import { InvalidInputError } from '@kvasir/runtime/errors'

const METHODS: Partial<Record<AttentionMethod, AttentionBudget['method']>> = {
  [AttentionMethod.PAGE_BOUNDS]: 'page-bounds',
  [AttentionMethod.RANDOM]: 'random',
  [AttentionMethod.RECENT]: 'recent',
}
const DENSE: readonly AttentionMethod[] = [AttentionMethod.DENSE, AttentionMethod.UNSPECIFIED]

/** Undefined for dense attention. Throws InvalidInputError for a method that is not known or a budget that is none. */
export function checkAttention(
  attention: Attention | undefined,
  message: string,
): AttentionBudget | undefined {
  if (attention === undefined || DENSE.includes(attention.method)) return undefined
  const method = METHODS[attention.method]
  if (method === undefined) {
    throw new InvalidInputError(`${message}.attention.method is not known to this device; choose another.`, {
      param: 'attention.method',
    })
  }
  const { budgetTokens: tokens, budgetShare: share } = attention
  if (tokens > 0 && share !== 0) {
    throw new InvalidInputError(
      `${message}.attention has budget_tokens and budget_share; leave one of them out.`,
      { param: 'attention.budget' },
    )
  }
  const budget: AttentionBudget = { method, budget: tokens > 0 ? { tokens } : { share } }
  checkBudget(budget)
  return budget
}
