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
  const movable = [...pages.keys()].filter((index) => pages[index]?.fixed === false)
  const at = (index: number) => pages[index] as TierPage
  const missed = movable
    .filter((index) => at(index).tier !== NEAREST && at(index).idleSteps === 0)
    .sort((a, b) => at(b).reads - at(a).reads || at(b).mass - at(a).mass)
  const victims = movable
    .filter((index) => at(index).tier === NEAREST && at(index).idleSteps > 0)
    .sort((a, b) => at(b).idleSteps - at(a).idleSteps || at(a).reads - at(b).reads)
  for (const page of missed) {
    const from = at(page).tier
    if ((room[NEAREST] ?? 0) === 0) {
      const victim = victims.shift()
      const to = room.findIndex((blocks, tier) => tier !== NEAREST && blocks > 0)
      if (victim === undefined || to < 0 || moves.length + 2 > movesMax) break
      moves.push({ page: victim, to })
      room[to] = (room[to] ?? 0) - 1
      room[NEAREST] = 1
    }
    if (moves.length === movesMax) break
    moves.push({ page, to: NEAREST })
    room[NEAREST] = (room[NEAREST] ?? 0) - 1
    room[from] = (room[from] ?? 0) + 1
  }
  return moves
}
