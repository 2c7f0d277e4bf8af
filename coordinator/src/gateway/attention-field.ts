/**
 * The field `attention` of a completion: which pages decoding attends to, and where that runs.
 *
 *   {"method": "page-bounds", "budget": 512, "place": "auto"}
 *
 * `budget` is tokens, 1 to the context, or a share of the context such as "25%"; page-bounds, random and
 * recent need one, dense and auto take none. random and recent run on the decoding device alone.
 */
import type { TextModel } from '@kvasir/engine/text/text-model'
import { z } from 'zod'
import type { AttentionWish } from '../generation.js'
import type { ModelTraits } from '../model-reports.js'
import { badRequest } from './api-error.js'
import { withoutNulls } from './without-nulls.js'

const BUDGET_WANTED = 'expected tokens, 1 or more, or a share of the context such as "25%"'
const BUDGET_PARAM = 'attention.budget'

export const attentionField = z.preprocess(
  withoutNulls,
  z.strictObject({
    method: z.enum(['auto', 'dense', 'page-bounds', 'random', 'recent']).optional(),
    budget: z.union([z.int(), z.string()], { error: BUDGET_WANTED }).optional(),
    place: z.enum(['auto', 'local', 'partial', 'indices']).optional(),
  }),
)

/** Throws ApiError (400) for fields that contradict each other. */
export function attentionWish(field: z.infer<typeof attentionField> | undefined): AttentionWish | undefined {
  if (field === undefined) return undefined
  const { method = 'auto', place = 'auto' } = field
  const hasBudget = method !== 'auto' && method !== 'dense'
  if (hasBudget && field.budget === undefined) {
    throw badRequest(
      `Attention by "${method}" needs a budget: tokens such as 512, or a share such as "25%".`,
      'missing_required_parameter',
      BUDGET_PARAM,
    )
  }
  if (!hasBudget && field.budget !== undefined) {
    throw badRequest(
      `Attention by "${method}" takes no budget. Remove it, or choose "page-bounds".`,
      'invalid_value',
      BUDGET_PARAM,
    )
  }
  if ((method === 'random' || method === 'recent') && place !== 'auto' && place !== 'local') {
    throw badRequest(
      `Attention by "${method}" runs on the decoding device alone. Leave "place" out.`,
      'invalid_value',
      'attention.place',
    )
  }
  return { method, budget: field.budget === undefined ? null : parseBudget(field.budget), place }
}

/** Throws ApiError (400) for what the model cannot do, and for a budget that its context cannot hold. */
export function checkAttention(
  wish: AttentionWish | undefined,
  model: TextModel,
  traits: ModelTraits | undefined,
): void {
  if (!wish) return
  const windowTokens = traits?.slidingWindowTokens
  if (windowTokens !== null && windowTokens !== undefined) checkWindow(wish, model, windowTokens)
  if (!wish.budget || !('tokens' in wish.budget)) return
  if (wish.budget.tokens <= model.contextTokensMax) return
  throw badRequest(
    `A budget of ${wish.budget.tokens} tokens is above this model's context of ${model.contextTokensMax}. Ask for less, or for "dense".`,
    'invalid_value',
    BUDGET_PARAM,
  )
}

/** Layers with a window hold what the choice of pages and another device's answer would need only in part. */
function checkWindow({ method, place }: AttentionWish, { name }: TextModel, windowTokens: number): void {
  const isSparse = method !== 'auto' && method !== 'dense'
  const isElsewhere = place !== 'auto' && place !== 'local'
  if (!isSparse && !isElsewhere) return
  throw badRequest(
    `The model "${name}" looks back ${windowTokens} tokens in some layers, so it attends densely and on the decoding device. Leave "attention" out.`,
    'unsupported_parameter',
    isSparse ? 'attention.method' : 'attention.place',
  )
}

function parseBudget(budget: number | string): AttentionWish['budget'] {
  if (typeof budget === 'number') {
    if (budget >= 1) return { tokens: budget }
  } else {
    const share = Number(/^(\d{1,3}(?:\.\d{1,9})?) ?%$/.exec(budget)?.[1]) / 100
    if (share > 0 && share <= 1) return { share }
  }
  throw badRequest(`Invalid value for "${BUDGET_PARAM}": ${BUDGET_WANTED}.`, 'invalid_value', BUDGET_PARAM)
}
