/** The study is worth what it finds: mistakes planted in the cores, each found within so many seeds. */
import { describe, expect, test } from 'vitest'
import { caseOf } from './case-generator.js'
import { storyOf } from './case-story.js'
import { leakedSlot } from './planted-agent-bugs.js'
import type { PlantedBug } from './planted-bug.js'
import { PLANTED_BUGS, plantedBug } from './planted-bugs.js'
import { kvOutOfTurn } from './planted-coordinator-bugs.js'
import { type FoundViolation, runCase } from './run-case.js'
import type { RuleName } from './violation.js'

const SEEDS_MAX = 150

/** The rules that it breaks; the first that is met is told. */
const BREAKS: Readonly<Record<string, readonly RuleName[]>> = {
  'skipped-lease-check': ['I1'],
  'older-lease-accepted': ['I1', 'books'],
  'forgotten-release': ['I4'],
  'freed-under-transfer': ['I1', 'I6'],
  'directory-trusted': ['I6', 'I3'],
  'doubled-emit': ['I3'],
  'lost-device-chosen': ['I5'],
  'epoch-not-fenced': ['I3', 'I1'],
  'deadline-not-armed': ['I2'],
  'queue-unbounded': ['I2'],
  'leaked-slot': ['books'],
  'kv-out-of-turn': ['I6'],
}

function firstFound(plant: PlantedBug): FoundViolation | null {
  for (let seed = 1; seed <= SEEDS_MAX; seed += 1) {
    const { violation } = runCase(caseOf(seed), { plant })
    if (violation) return violation
  }
  return null
}

describe('a planted mistake is found', () => {
  for (const plant of [...PLANTED_BUGS, leakedSlot, kvOutOfTurn]) {
    test(`${plant.name}: ${plant.what}`, { timeout: 120_000 }, () => {
      const violation = firstFound(plant)
      expect(violation?.message).toBeTruthy()
      expect(BREAKS[plant.name]).toContain(violation?.rule)
    })
  }
})

test('ten mistakes are planted, and one that is not known is named with those that are', () => {
  expect(new Set(PLANTED_BUGS.map(({ name }) => name)).size).toBe(10)
  expect(() => plantedBug('nonesuch')).toThrow(
    /There is no planted mistake nonesuch; there are skipped-lease-check, /,
  )
})

test('what breaks a rule is made small and told to the event that broke it', { timeout: 120_000 }, () => {
  const plant = plantedBug('doubled-emit')
  let seed = 1
  while (runCase(caseOf(seed), { plant }).violation === null) seed += 1
  const story = storyOf(seed, plant)
  expect(story.isViolated).toBe(true)
  expect(story.verdict).toMatch(
    /^Seed \d+ breaks I3: r\d+ emits \d+ tokens from \d+ on, after \d+ were emitted\.$/,
  )
  const [scene = ''] = story.scene
  const [left = 99, all = 0] = [...(/(\d+) of (\d+) requests/.exec(scene) ?? [])].slice(1).map(Number)
  expect(left).toBeLessThanOrEqual(Math.min(3, all))
  const last = story.history.at(-1)
  expect(last?.who).toBe('VIOLATION')
  expect(story.history.some(({ what }) => what.startsWith('> emit tokens'))).toBe(true)
  expect(storyOf(seed, plant)).toEqual(story)
})
