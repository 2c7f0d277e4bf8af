/**
 * Which pages a sequence of a step attends to: how many, where they are, and how the choice is made.
 *
 * With n pages and a budget of K < n, each KV head attends to the newest page and to the K − 1 best of
 * the others, in the order of the sequence (D6 of device-driver.ts). K ≥ n is dense attention itself.
 * Pure: what needs keys or another device is done by step-attention.ts.
 */
import { BLOCK_TOKENS, type SparseAttention, type StepSequence } from './device-driver.js'
import { largestColumns } from './top-k.js'

/**
 * all: every page, and all are here.
 * choose: some pages, chosen here among those that are here.
 * indices: some pages, all here, chosen together with another device.
 * partial: the first pages are with another device, which attends to those of them that are chosen.
 */
export type PageSource = 'all' | 'choose' | 'indices' | 'partial'

export interface PagePlan {
  readonly source: PageSource
  /** Pages of the sequence, wherever they are. */
  readonly pages: number
  /** Pages that each KV head attends to, at most `pages`. */
  readonly budget: number
  /** Pages that another device answers for: the first ones. */
  readonly remotePages: number
  /** The page that `StepSequence.blocks` begins with. */
  readonly firstPage: number
}

export function pagePlanOf({ start, tokens, attention, remote }: StepSequence): PagePlan {
  const pages = Math.ceil((start + tokens.length) / BLOCK_TOKENS)
  const budget = tokens.length === 1 ? Math.min(pages, attention?.pages ?? pages) : pages
  const remotePages = remote?.pages ?? 0
  const firstPage = remote?.mode === 'partial' ? remotePages : 0
  return { source: sourceOf(), pages, budget, remotePages, firstPage }

  function sourceOf(): PageSource {
    // Only the newest page counts, and it is here: nobody needs to be asked.
    if (budget === 1 && pages > 1) return 'choose'
    if (firstPage > 0) return 'partial'
    if (budget === pages) return 'all'
    return remotePages > 0 ? 'indices' : 'choose'
  }
}

/**
 * Of pages 0 … n − 1 of which the last is the newest: `budget` of them, ascending, by the scores of the
 * others.
 */
export function newestAndBest(scores: Float32Array, budget: number): Uint32Array<ArrayBuffer> {
  const best = largestColumns(scores, budget - 1)
  const chosen = new Uint32Array(best.length + 1)
  chosen.set(best)
  chosen[best.length] = scores.length
  return chosen
}

/** Scores that make newestAndBest take the last pages. */
export function recentScores(pages: number): Float32Array {
  return Float32Array.from({ length: pages }, (_, page) => page)
}

/** Scores that make newestAndBest draw pages: the same for the same seed, layer, KV head and position. */
export function randomScores(
  pages: number,
  { seed }: Pick<SparseAttention, 'seed'>,
  layer: number,
  head: number,
  position: number,
): Float32Array {
  let base = 0x9e3779b9
  for (const part of [seed, Math.floor(seed / 2 ** 32), layer, head, position])
    base = mixed(base ^ mixed(part))
  return Float32Array.from({ length: pages }, (_, page) => mixed(base ^ mixed(page + 1)) >>> 8)
}

function mixed(value: number): number {
  let x = (value ^ 0x2545f491) >>> 0
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}
