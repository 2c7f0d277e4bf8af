/** The clean system holds its rules whatever a seed brings, and a seed always brings the same. */
import { expect, test } from 'vitest'
import { addCounts, noCounts } from './case-counts.js'
import { caseOf } from './case-generator.js'
import { FAULT_KINDS } from './fault-case.js'
import { type FoundViolation, runCase } from './run-case.js'

const SEEDS = 50

test(`no invariant breaks in ${SEEDS} seeds, and every kind of fault strikes in them`, {
  timeout: 120_000,
}, () => {
  const counts = noCounts()
  const broken: (FoundViolation & { readonly seed: number })[] = []
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const { violation, counts: ofSeed } = runCase(caseOf(seed))
    addCounts(counts, ofSeed)
    if (violation) broken.push({ seed, ...violation })
  }
  expect(broken).toEqual([])
  expect(FAULT_KINDS.filter((kind) => counts.faults[kind] === 0)).toEqual([])
  // What the study is about happens: requests move, finish elsewhere, reuse, are refused.
  const { recovered, replaced, reused, refused, demotedBlocks, snapshots, cancelled } = counts
  for (const count of [recovered, replaced, reused, refused, demotedBlocks, snapshots, cancelled]) {
    expect(count).toBeGreaterThan(5)
  }
})

test('a seed gives the same history, event for event', { timeout: 60_000 }, () => {
  for (const seed of [3, 11, 46]) {
    const faultCase = caseOf(seed)
    expect(caseOf(seed)).toEqual(faultCase)
    const histories = [1, 2].map(() => runCase(faultCase, { isRecorded: true }).history.all())
    expect(histories[0]?.length).toBeGreaterThan(100)
    expect(JSON.stringify(histories[1])).toBe(JSON.stringify(histories[0]))
  }
})
