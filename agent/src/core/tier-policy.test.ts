/**
 * Policies in virtual time, as a study would drive them: pages that drift in and out of what attention
 * reads, after the generator of Fang et al. (arXiv 2508.13231), with a page as the unit.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { TierPolicyName } from './core-options.js'
import { PageHeat } from './page-heat.js'
import { tierPolicy } from './tier-policies.js'
import type { TierPage } from './tier-policy.js'

const LEASE = 1n
/** HBM and DRAM of their system, bytes a second. */
const BYTES_PER_SECOND = [4_900e9, 500e9]
const BEST_SHARE = 4_900 / (4_900 + 500)
const BLOCK_BYTES = 65_536

interface Study {
  readonly policy: TierPolicyName
  /** Share of pages that a step does not read. */
  readonly sparsity: number
  readonly pages: number
  readonly nearPages: number
  readonly steps: number
  readonly movesMax: number
}

interface Result {
  /** Sum over steps of the time of the tier that was busy longest, traffic of moves included. */
  readonly seconds: number
  /** Of the reads of the last quarter of the steps. */
  readonly nearShare: number
  readonly moves: number
  /** In the last quarter of the steps. */
  readonly lateMoves: number
}

/** Numbers in [0, 1), the same in every run. */
function random(): () => number {
  let state = 0x2545f491
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

/** Which pages each step skips: members of the oldest ones, of which at most 3 % change places in a step. */
class SkipSet {
  private readonly draw = random()
  readonly skipped = new Set<number>()

  constructor(private readonly sparsity: number) {}

  step(pages: number): void {
    if (this.sparsity === 0) return
    const range = Math.floor(Math.min(1, this.sparsity + 0.1) * pages)
    const size = Math.round(this.sparsity * pages)
    const swaps = Math.floor(this.draw() * 0.03 * this.skipped.size)
    const newest = [...this.skipped].sort((a, b) => b - a).slice(0, swaps)
    for (const page of newest) this.skipped.delete(page)
    const back = new Set(newest)
    while (this.skipped.size < size) {
      const page = Math.floor(this.draw() * range)
      if (!back.has(page)) this.skipped.add(page)
    }
  }
}

function run({ policy: name, sparsity, pages: prompt, nearPages, steps, movesMax }: Study): Result {
  const policy = tierPolicy(name)
  const heat = new PageHeat()
  const skips = new SkipSet(sparsity)
  const tiers: number[] = []
  const count = (tier: number) => tiers.filter((own) => own === tier).length
  const late = Math.floor(steps * 0.75)
  let pages = prompt
  const result = { seconds: 0, moves: 0, lateMoves: 0 }
  const lateReads = [0, 0]
  for (let step = 0; step < steps; step += 1) {
    if (step % 16 === 0) pages += 1
    let near = count(0)
    while (tiers.length < pages) tiers.push(near++ < nearPages ? 0 : 1)
    skips.step(pages)
    const reads = Float32Array.from({ length: pages }, (_, page) => (skips.skipped.has(page) ? 0 : 1))
    const traffic = [0, 0]
    for (const [page, tier] of tiers.entries()) traffic[tier] = (traffic[tier] ?? 0) + (reads[page] ?? 0)
    if (step >= late)
      for (const tier of [0, 1]) lateReads[tier] = (lateReads[tier] ?? 0) + (traffic[tier] ?? 0)
    heat.record(LEASE, 0, pages, { reads, mass: reads })
    const known = tiers.map((tier, page): TierPage => ({ tier, fixed: false, ...heat.of(LEASE)(page) }))
    const free = [nearPages - count(0), pages]
    const moves = policy({
      pages: known,
      free,
      bytesPerSecond: BYTES_PER_SECOND,
      blockBytes: BLOCK_BYTES,
      movesMax,
    })
    for (const { page, to } of moves) {
      expect(tiers[page]).not.toBe(to)
      for (const tier of [0, 1]) traffic[tier] = (traffic[tier] ?? 0) + 1
      tiers[page] = to
      expect(count(0)).toBeLessThanOrEqual(nearPages)
    }
    result.moves += moves.length
    if (step >= late) result.lateMoves += moves.length
    result.seconds += Math.max(
      ...traffic.map((blocks, tier) => (blocks * BLOCK_BYTES) / (BYTES_PER_SECOND[tier] ?? 1)),
    )
  }
  const [near = 0, far = 0] = lateReads
  return { ...result, nearShare: near / (near + far) }
}

/** As on a device: a bounded number of moves a step; room in the near tier for less than half of the pages. */
const STUDY = { pages: 600, nearPages: 240, steps: 400, movesMax: 32 }

describe('tier policies', () => {
  it.each([0.6, 0.8, 0.9])(
    'balanced is fastest, static slowest where %f of the pages are not read',
    (sparsity) => {
      const seconds = (policy: TierPolicyName) => run({ ...STUDY, policy, sparsity }).seconds
      expect(seconds('balanced')).toBeLessThan(seconds('reactive'))
      expect(seconds('reactive')).toBeLessThan(seconds('static') / 2)
    },
  )

  it('balanced does not follow a drift that is too fast to pay, as reactive does', () => {
    const tight = { ...STUDY, nearPages: 120, sparsity: 0.8 }
    const balanced = run({ ...tight, policy: 'balanced' })
    const reactive = run({ ...tight, policy: 'reactive' })
    expect(balanced.moves).toBeLessThan(reactive.moves / 3)
    expect(balanced.seconds).toBeLessThan(0.75 * reactive.seconds)
  })

  it.each(['static', 'reactive', 'balanced'] as const)(
    '%s moves nothing once dense attention is settled',
    (policy) => {
      const dense = { ...STUDY, policy, sparsity: 0, nearPages: 700 }
      expect(run(dense).lateMoves).toBeLessThanOrEqual(1)
    },
  )

  it('balanced reads the share of the bandwidths, less than all, from a near tier that could hold everything', () => {
    const dense = run({ ...STUDY, policy: 'balanced', sparsity: 0, nearPages: 700 })
    expect(Math.abs(dense.nearShare - BEST_SHARE)).toBeLessThan(0.005)
    const near = run({ ...STUDY, policy: 'static', sparsity: 0, nearPages: 700 })
    expect(near.nearShare).toBe(1)
    expect(dense.seconds).toBeLessThan(0.93 * near.seconds)
  })

  it('leaves alone what must not move', () => {
    const page = { tier: 1, reads: 1, mass: 1, idleSteps: 0, fixed: true }
    const state = { free: [4, 4], bytesPerSecond: BYTES_PER_SECOND, blockBytes: 1, movesMax: 8 }
    for (const name of ['static', 'reactive', 'balanced'] as const) {
      expect(tierPolicy(name)({ ...state, pages: [page, page, page] })).toEqual([])
    }
  })

  it('gives moves that have room in their order, and no more than may be made', () => {
    const page = fc.record({
      tier: fc.nat(2),
      reads: fc.double({ min: 0, max: 3, noNaN: true }),
      mass: fc.double({ min: 0, max: 1, noNaN: true }),
      idleSteps: fc.nat(4),
      fixed: fc.boolean(),
    })
    fc.assert(
      fc.property(
        fc.constantFrom('reactive' as const, 'balanced' as const),
        fc.array(page, { maxLength: 60 }),
        fc.array(fc.nat(3), { minLength: 3, maxLength: 3 }),
        fc.nat(20),
        (name, pages, free, movesMax) => {
          const bytesPerSecond = [900, 300, 50]
          const moves = tierPolicy(name)({ pages, free, bytesPerSecond, blockBytes: 10, movesMax })
          const room = [...free]
          expect(moves.length).toBeLessThanOrEqual(movesMax)
          expect(new Set(moves.map(({ page }) => page)).size).toBe(moves.length)
          for (const { page: index, to } of moves) {
            const moved = pages[index]
            expect(moved?.fixed).toBe(false)
            expect(moved?.tier).not.toBe(to)
            expect(room[to]).toBeGreaterThan(0)
            room[to] = (room[to] ?? 0) - 1
            room[moved?.tier ?? 0] = (room[moved?.tier ?? 0] ?? 0) + 1
          }
        },
      ),
      { numRuns: 500 },
    )
  })
})
