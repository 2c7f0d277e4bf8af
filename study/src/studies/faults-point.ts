/** What worker threads do of the fault study: play seeds, look for a planted mistake, tell the story of a seed. */
import { addCounts, type CaseCounts, noCounts } from '../faults/case-counts.js'
import { caseOf } from '../faults/case-generator.js'
import { type Story, storyOf } from '../faults/case-story.js'
import { plantedBug } from '../faults/planted-bugs.js'
import { type FoundViolation, runCase } from '../faults/run-case.js'

export interface SeedRange {
  readonly from: number
  readonly count: number
}

export type FaultsPoint =
  | ({ readonly task: 'play' } & SeedRange)
  /** Until it is found. */
  | ({ readonly task: 'find'; readonly bug: string } & SeedRange)
  | { readonly task: 'tell'; readonly seed: number; readonly bug: string | undefined }

export interface BrokenSeed {
  readonly seed: number
  readonly violation: FoundViolation
}

export interface FaultsMeasure {
  readonly seeds: number
  readonly counts: CaseCounts
  readonly broken: readonly BrokenSeed[]
  readonly story: Story | undefined
}

export function point(input: FaultsPoint, tell: (share: number) => void): FaultsMeasure {
  const counts = noCounts()
  if (input.task === 'tell') {
    const plant = input.bug === undefined ? undefined : plantedBug(input.bug)
    return { seeds: 1, counts, broken: [], story: storyOf(input.seed, plant) }
  }
  const plant = input.task === 'find' ? plantedBug(input.bug) : undefined
  const broken: BrokenSeed[] = []
  let seeds = 0
  for (; seeds < input.count && !(plant && broken.length > 0); seeds += 1) {
    tell(seeds / input.count)
    const seed = input.from + seeds
    const { violation, counts: ofSeed } = runCase(caseOf(seed), plant === undefined ? {} : { plant })
    addCounts(counts, ofSeed)
    if (violation) broken.push({ seed, violation })
  }
  return { seeds, counts, broken, story: undefined }
}
