/**
 * Promote on a miss, demote the least recently read: what a cache does, and what the balanced
 * policy is measured against.
 *
 * Every page that the last step read from another tier goes to the nearest, in place of the page there
 * that was not read for the longest time. A page that the last step read as well is
 * not given up, or dense attention would exchange all pages in every step.
 */
import { firstFew } from './page-selection.js'
import type { TierMove, TierPage, TierState } from './tier-policy.js'

const NEAREST = 0

export function reactive({ pages, free, movesMax }: TierState): TierMove[] {
  const room = [...free]
  const moves: TierMove[] = []
  const at = (index: number) => pages[index] as TierPage
  const missed: number[] = []
  const idle: number[] = []
  for (const [index, { tier, idleSteps, fixed }] of pages.entries()) {
    if (fixed) continue
    if (tier !== NEAREST && idleSteps === 0) missed.push(index)
    if (tier === NEAREST && idleSteps > 0) idle.push(index)
  }
  const hottest = (a: number, b: number) => at(b).reads - at(a).reads || at(b).mass - at(a).mass
  const idlest = (a: number, b: number) => at(b).idleSteps - at(a).idleSteps || at(a).reads - at(b).reads
  const promoted = firstFew(missed, movesMax, hottest).values()
  const demoted = firstFew(idle, movesMax, idlest).values()
  while (moves.length < movesMax) {
    const page = promoted.next().value
    if (page === undefined) break
    const from = at(page).tier
    if ((room[NEAREST] ?? 0) === 0) {
      const victim = demoted.next().value
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
