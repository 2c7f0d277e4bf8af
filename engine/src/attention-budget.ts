/**
 * How many pages sparse attention may read: the budget of a request, at one position.
 *
 * A sequence whose newest token is at position p has n = ⌊p ÷ 16⌋ + 1 pages; each KV head attends to
 * max(1, min(n, ⌈budget⌉)) of them, so that a budget of all pages is dense attention.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { BLOCK_TOKENS, type SparseAttention } from './device-driver.js'

export interface AttentionBudget {
  readonly method: SparseAttention['method']
  /** Tokens that each KV head may attend to, or a share of the sequence's pages, above 0 and at most 1. */
  readonly budget: { readonly tokens: number } | { readonly share: number }
}

/** A product of fractions may come out a hair above the whole number that it is. */
const ROUNDING = 1e-9

/** Throws InvalidInputError for a budget that is none. */
export function checkBudget({ budget }: AttentionBudget): void {
  const isRight =
    'tokens' in budget
      ? Number.isInteger(budget.tokens) && budget.tokens >= 1
      : budget.share > 0 && budget.share <= 1
  if (isRight) return
  throw new InvalidInputError(
    'The budget of attention is a whole number of tokens from 1, or a share above 0 % and at most 100 %.',
    { param: 'attention.budget' },
  )
}

/** What a sequence attends to at the step whose newest token is at `position`. `seed`: of its sampling, for `random`. */
export function attentionAt(
  { method, budget }: AttentionBudget,
  position: number,
  seed: bigint,
): SparseAttention {
  const pages = Math.floor(position / BLOCK_TOKENS) + 1
  const wanted = 'tokens' in budget ? budget.tokens / BLOCK_TOKENS : budget.share * pages - ROUNDING
  return {
    method,
    pages: Math.max(1, Math.min(pages, Math.ceil(wanted))),
    seed: Number(BigInt.asUintN(32, seed)),
  }
}
