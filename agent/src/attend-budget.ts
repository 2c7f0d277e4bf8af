/**
 * How many pages a decoding sequence attends to: the budget of its request, at one position.
 *
 * A sequence whose newest token is at position p has n = ⌊p ÷ 16⌋ + 1 pages. Each KV head attends to
 * max(1, min(n, ⌈budget⌉)) of them, the newest always, so that a budget of all pages is dense attention.
 */
import { BLOCK_TOKENS, type SparseAttention } from '@kvasir/engine/device-driver'
import { type Attention, AttentionMethod } from '@kvasir/proto/kvasir/inference/v1/inference'
import { InvalidInputError } from '@kvasir/runtime/errors'

export interface AttentionBudget {
  readonly method: SparseAttention['method']
  /** Tokens that each KV head may attend to; 0 where the budget is a share. */
  readonly tokens: number
  /** Share of the sequence's pages, above 0 and at most 1; 0 where the budget is in tokens. */
  readonly share: number
  /** For `random`. */
  readonly seed: number
}

const METHODS: Partial<Record<AttentionMethod, SparseAttention['method']>> = {
  [AttentionMethod.PAGE_BOUNDS]: 'page-bounds',
  [AttentionMethod.RANDOM]: 'random',
  [AttentionMethod.RECENT]: 'recent',
}
const DENSE: readonly AttentionMethod[] = [AttentionMethod.DENSE, AttentionMethod.UNSPECIFIED]

/** Undefined for dense attention. Throws InvalidInputError for a method that is not known or a budget that is none. */
export function checkAttention(
  attention: Attention | undefined,
  seed: bigint,
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
  const inTokens = tokens > 0 && share === 0
  const inShare = tokens === 0 && share > 0 && share <= 1
  if (!inTokens && !inShare) {
    throw new InvalidInputError(
      `${message}.attention needs either budget_tokens of at least 1 or budget_share above 0 and at most 1.`,
      { param: 'attention.budget' },
    )
  }
  return { method, tokens, share, seed: Number(BigInt.asUintN(32, seed)) }
}

/** A product of fractions may come out a hair above the whole number that it is. */
const ROUNDING = 1e-9

/** What a sequence attends to at the step whose newest token is at `position`. */
export function attentionAt(budget: AttentionBudget, position: number): SparseAttention {
  const { method, tokens, share, seed } = budget
  const pages = Math.floor(position / BLOCK_TOKENS) + 1
  const wanted = tokens > 0 ? Math.ceil(tokens / BLOCK_TOKENS) : Math.ceil(share * pages - ROUNDING)
  return { method, pages: Math.max(1, Math.min(pages, wanted)), seed }
}
