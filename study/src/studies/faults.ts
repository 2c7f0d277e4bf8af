/**
 * Faults from seeds: small clusters of both cores in virtual time, random faults, the invariants checked after every event.
 * So that its silence means something, mistakes are planted in the cores, and it must find each.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { addCounts, noCounts } from '../faults/case-counts.js'
import { PLANTED_BUGS, plantedBug } from '../faults/planted-bugs.js'
import type { StudyContext, StudyOptions, StudyResult } from '../study.js'
import type { BrokenSeed, FaultsMeasure, FaultsPoint } from './faults-point.js'
import { type FoundBug, faultsResult, replayResult } from './faults-results.js'

export interface FaultsOptions {
  /** Cases to play, from the study's seed on. */
  readonly seeds: number
  /** Plays this seed alone and tells what happened. */
  readonly replay?: number
  /** With `replay`: the planted mistake to play it with. */
  readonly plant?: string
}

/** Seeds of one point: some seconds of work. */
const SEEDS_PER_POINT = 50
/** Within which a planted mistake must be found. */
const PLANTED_SEEDS_MAX = 300
/** Broken seeds that are made small; of further ones the command says the same. */
const STORIES_MAX = 3

export async function studyFaults(
  options: FaultsOptions & StudyOptions,
  context: StudyContext,
): Promise<StudyResult> {
  const { seed, seeds, replay, plant } = options
  if (plant !== undefined && replay === undefined) {
    throw new InvalidInputError('--plant needs --replay SEED: a planted mistake is shown with one seed.', {
      param: 'plant',
    })
  }
  if (plant !== undefined) plantedBug(plant)
  const module = new URL('./faults-point.js', import.meta.url)
  const compute = (points: readonly FaultsPoint[], what: string) =>
    context.points<FaultsPoint, FaultsMeasure>(module, points, what)
  if (replay !== undefined) {
    const [measure] = await compute([{ task: 'tell', seed: replay, bug: plant }], 'seeds')
    return replayResult(replay, plant, measure?.story)
  }

  const plays = Array.from({ length: Math.ceil(seeds / SEEDS_PER_POINT) }, (_, index): FaultsPoint => {
    const from = index * SEEDS_PER_POINT
    return { task: 'play', from: seed + from, count: Math.min(SEEDS_PER_POINT, seeds - from) }
  })
  const finds = PLANTED_BUGS.map(({ name }): FaultsPoint => {
    return { task: 'find', bug: name, from: seed, count: PLANTED_SEEDS_MAX }
  })
  const measures = await compute([...finds, ...plays], 'seeds')
  const counts = noCounts()
  const broken: BrokenSeed[] = []
  let played = 0
  for (const measure of measures.slice(finds.length)) {
    if (measure === undefined) continue
    addCounts(counts, measure.counts)
    broken.push(...measure.broken)
    played += measure.seeds
  }
  const told = broken.slice(0, STORIES_MAX)
  const stories = await compute(
    told.map((one): FaultsPoint => ({ task: 'tell', seed: one.seed, bug: undefined })),
    'failing seeds made small',
  )
  return faultsResult({
    seeds: played,
    counts,
    broken,
    stories: told.flatMap(({ seed: ofSeed }, index) => {
      const story = stories[index]?.story
      return story === undefined ? [] : [{ seed: ofSeed, story }]
    }),
    bugs: PLANTED_BUGS.map((bug, index): FoundBug => {
      const measure = measures[index]
      return { ...bug, seeds: measure?.seeds ?? 0, broken: measure?.broken[0] }
    }),
    pointsSkipped: [...measures, ...stories].filter((measure) => measure === undefined).length,
  })
}
