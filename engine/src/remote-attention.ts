/**
 * What another device is asked for a sequence's attention, and how its answer is read.
 *
 * An answer is believed only as far as it was checked: lengths, counts and page numbers must fit the
 * query, and no number may be none, else it is a CorruptDataError and the sequence fails alone.
 */
import { CorruptDataError } from '@kvasir/runtime/errors'
import type { PartialAttention, RemoteAnswer, RemoteQuery } from './device-driver.js'
import { newestAndBest, type PagePlan } from './page-plan.js'

interface HeadShape {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

/** What is asked of one layer. `q`: `[query heads, head dim]`; `rivals`: scores of the pages here but the newest. */
export function remoteQueryOf(
  layer: number,
  q: Float32Array,
  plan: PagePlan,
  rivals: Float32Array,
): RemoteQuery {
  const isDense = plan.budget === plan.pages
  return { layer, q, pages: isDense ? 0 : plan.budget - 1, rivals: isDense ? new Float32Array(0) : rivals }
}

/**
 * Of each KV head the pages to attend to here, counted from the first page that is here, ascending: the
 * newest, and the best of the others as many as the other device has left. Where all pages are here
 * (`indices`), the other device's choice is among them.
 */
export function ownPages(
  answer: RemoteAnswer,
  plan: PagePlan,
  rivals: Float32Array,
  shape: HeadShape,
): Uint32Array[] {
  checkAnswer(answer, plan, shape)
  const { remotePages, firstPage, budget, pages } = plan
  const others = pages - remotePages - 1
  let taken = 0
  return Array.from(answer.chosen, (chosen, head) => {
    const scores =
      budget === pages ? new Float32Array(others) : rivals.subarray(head * others, (head + 1) * others)
    const own = newestAndBest(scores, budget - chosen)
    if (firstPage > 0) return own
    const theirs = answer.pages?.subarray(taken, taken + chosen) ?? new Uint32Array(0)
    taken += chosen
    return Uint32Array.of(...theirs, ...own.map((page) => page + remotePages))
  })
}

/** The partial attention of a checked answer. */
export function partialOf({ partial }: RemoteAnswer): PartialAttention {
  if (partial === undefined) throw wrong('has no partial attention')
  return partial
}

function checkAnswer({ chosen, pages, partial }: RemoteAnswer, plan: PagePlan, shape: HeadShape): void {
  const { remotePages, budget } = plan
  if (chosen.length !== shape.kvHeads) throw wrong(`is for ${chosen.length} KV heads, not ${shape.kvHeads}`)
  const most = Math.min(remotePages, budget - 1)
  // What is not chosen there is chosen here, and there must be as much.
  const least = budget - 1 - (plan.pages - remotePages - 1)
  for (const count of chosen) {
    if (count > most || count < least) throw wrong(`chose ${count} pages where ${least} to ${most} can be`)
  }
  if (plan.firstPage === 0) checkPages(pages, chosen, remotePages)
  else checkPartial(partial, shape)
}

function checkPages(pages: Uint32Array | undefined, chosen: Uint32Array, remotePages: number): void {
  const total = chosen.reduce((sum, count) => sum + count, 0)
  if (pages?.length !== total) throw wrong(`has ${pages?.length ?? 0} page numbers, not ${total}`)
  let at = 0
  for (const count of chosen) {
    for (let i = 0; i < count; i++, at++) {
      const page = pages[at] ?? 0
      if (page >= remotePages || (i > 0 && page <= (pages[at - 1] ?? 0))) {
        throw wrong(`names page ${page} out of order or out of range`)
      }
    }
  }
}

function checkPartial(partial: PartialAttention | undefined, { heads, headDim }: HeadShape): void {
  if (
    partial?.output.length !== heads * headDim ||
    partial.max.length !== heads ||
    partial.sum.length !== heads
  ) {
    throw wrong(`is not for ${heads} query heads of ${headDim}`)
  }
  for (const [head, sum] of partial.sum.entries()) {
    if (!(sum >= 0 && sum < Number.POSITIVE_INFINITY) || Number.isNaN(partial.max[head])) {
      throw wrong('holds what is no number')
    }
  }
  if (!partial.output.every(Number.isFinite)) throw wrong('holds what is no number')
}

function wrong(what: string): CorruptDataError {
  return new CorruptDataError(`The attending device's answer ${what}; the sequence is placed anew.`)
}
