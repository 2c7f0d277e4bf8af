/**
 * Promote on a miss, demote the least recently read: what a cache does, and what the balanced
 * policy is measured against.
 *
 * Every page that the last step read from another tier goes to the nearest, in place of the page there
 * that was not read for the longest time. A page that the last step read as well is
 * not given up, or dense attention would exchange all pages in every step.
 */
import type { TierMove, TierPage, TierState } from './tier-policy.js'

const NEAREST = 0

export function reactive({ pages, free, movesMax }: TierState): TierMove[] {
  const room = [...free]
  const moves: TierMove[] = []
  const at = (index: number) => pages[index] as TierPage
  const missed = new Set<number>()
  const idle = new Set<number>()
  for (const [index, { tier, idleSteps, fixed }] of pages.entries()) {
    if (fixed) continue
    if (tier !== NEAREST && idleSteps === 0) missed.add(index)
    if (tier === NEAREST && idleSteps > 0) idle.add(index)
  }
  const hotter = (a: number, b: number) => at(a).reads - at(b).reads || at(a).mass - at(b).mass
  const idler = (a: number, b: number) => at(a).idleSteps - at(b).idleSteps || at(b).reads - at(a).reads
  while (moves.length < movesMax) {
    const page = takeLargest(missed, hotter)
    if (page === undefined) break
    const from = at(page).tier
    if ((room[NEAREST] ?? 0) === 0) {
      const victim = takeLargest(idle, idler)
      const to = room.findIndex((blocks, tier) => tier !== NEAREST && blocks > 0)
      if (victim === undefined || to < 0 || moves.length + 2 > movesMax) break
      moves.push({ page: victim, to })
      room[to] = (room[to] ?? 0) - 1
      room[NEAREST] = 1
    }
    moves.push({ page, to: NEAREST })
    room[NEAREST] = (room[NEAREST] ?? 0) - 1
    room[from] = (room[from] ?? 0) + 1
  }
  return moves
}

/** Few are taken of many, so that sorting all would cost more. */
function takeLargest(indices: Set<number>, compare: (a: number, b: number) => number): number | undefined {
  let largest: number | undefined
  for (const index of indices) if (largest === undefined || compare(index, largest) > 0) largest = index
  if (largest !== undefined) indices.delete(largest)
  return largest
}
