/** What --attention and --budget mean to the engine in this process, where no coordinator decides. */
import type { AttentionBudget } from '@kvasir/engine/attention-budget'
import { InvalidInputError } from '@kvasir/runtime/errors'

export interface AttentionOptions {
  readonly attention?: string
  readonly budget?: string
  readonly attend?: string
}

const sparse: readonly AttentionBudget['method'][] = ['page-bounds', 'random', 'recent']

export interface LocalModel {
  readonly name: string
  readonly contextTokensMax: number
}

/** Undefined for dense attention. Throws InvalidInputError for what the engine alone cannot do. */
export function localAttention(
  { attention, budget, attend }: AttentionOptions,
  model: LocalModel,
): AttentionBudget | undefined {
  if (attend !== undefined && attend !== 'local' && attend !== 'auto') {
    throw new InvalidInputError('With --local no other device can attend: leave --attend out.')
  }
  const method = sparse.find((name) => name === attention)
  if (method === undefined) {
    if (attention !== undefined && attention !== 'dense' && attention !== 'auto') {
      throw new InvalidInputError(
        `--attention is "${attention}"; use auto, dense, ${sparse.slice(0, -1).join(', ')} or ${sparse.at(-1)}.`,
      )
    }
    if (budget === undefined) return undefined
    throw new InvalidInputError('--budget needs --attention page-bounds, random or recent.')
  }
  if (budget === undefined)
    throw new InvalidInputError(`--attention ${method} needs --budget, such as 512 or 25%.`)
  return { method, budget: budgetOf(budget, model) }
}

/** As the API takes it. */
function budgetOf(text: string, { name, contextTokensMax }: LocalModel): AttentionBudget['budget'] {
  const share = Number(/^(\d{1,3}(?:\.\d{1,9})?) ?%$/.exec(text)?.[1]) / 100
  if (share > 0 && share <= 1) return { share }
  const tokens = /^\d+$/.test(text) ? Number(text) : 0
  if (tokens > contextTokensMax) {
    throw new InvalidInputError(
      `--budget ${text} is above the context of ${name}, ${contextTokensMax} tokens: ask for less, or for --attention dense.`,
    )
  }
  if (tokens >= 1) return { tokens }
  throw new InvalidInputError(
    `--budget is "${text}"; give tokens such as 512, or a share such as 25%, above 0 and at most all.`,
  )
}
