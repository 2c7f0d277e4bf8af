/** The smallest cluster of given device types that meets an SLO: in dollars, then in devices. */
import type { Catalogue } from '@kvasir/catalogue/specs'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { ClusterDescription } from '../cluster-file/cluster-file.js'
import type { StudyContext } from '../study.js'
import { type DeviceCounts, mixedPlan } from './device-mix.js'
import { type Candidate, candidatesOf, DeviceSearch } from './device-search.js'
import { meets } from './replay-goodput.js'
import { dollarsOf } from './replay-money.js'
import type { Play, ReplayInput } from './replay-point.js'

export interface WhatIfQuestion {
  readonly base: ReplayInput
  readonly description: ClusterDescription
  readonly catalogue: Catalogue
  readonly types: readonly string[]
  /** Of each type. */
  readonly countMax: number
  readonly attain: number
}

export interface WhatIfTry {
  readonly candidate: Candidate
  readonly meets: boolean
  /** Share of requests that met the SLO; of a run that was stopped, at most. */
  readonly attained: number
  readonly isStopped: boolean
}

export interface WhatIfAnswer {
  readonly attain: number
  readonly types: readonly string[]
  readonly blockTokens: number
  readonly best: Candidate | undefined
  readonly tries: readonly WhatIfTry[]
  readonly candidates: number
  /** Not tried since the study was stopped. */
  readonly left: number
}

/** Tried side by side. */
const AT_ONCE = 2
const CANDIDATES_MAX = 20_000

export async function smallestCluster(
  question: WhatIfQuestion,
  play: Play,
  context: StudyContext,
): Promise<WhatIfAnswer> {
  const { base, types, attain } = question
  const candidates = allCandidates(question)
  const search = new DeviceSearch(candidates)
  const tries: WhatIfTry[] = []
  for (let chosen = search.next(AT_ONCE); chosen.length > 0; chosen = search.next(AT_ONCE)) {
    const inputs = chosen.map(({ counts }) => ({ ...base, mix: counts, attainMin: attain }))
    const runs = await play(inputs, `what if (${search.openCount} left)`)
    chosen.forEach((candidate, index) => {
      const run = runs[index]
      if (!run) return
      const isMet = meets(run, attain)
      const missed = run.arrived - run.attained
      const attained = run.isStopped ? 1 - missed / base.requests : run.attained / run.arrived
      tries.push({ candidate, meets: isMet, attained, isStopped: run.isStopped })
      search.tried(candidate, isMet)
      context.say(
        `${mixText(candidate.counts)}: ${isMet ? 'meets' : 'misses'} the SLO (${run.isStopped ? 'at most ' : ''}${(attained * 100).toFixed(1)} % of requests)`,
      )
    })
    if (runs.includes(undefined)) break
  }
  return {
    ...{ attain, types, best: search.best, tries, candidates: candidates.length, left: search.openCount },
    blockTokens: base.blockTokens ?? 0,
  }
}

/** Such as 4 a100-80-pcie + 8 u280. */
export function mixText(counts: DeviceCounts): string {
  return Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([type, count]) => `${count} ${type}`)
    .join(' + ')
}

function allCandidates({ description, catalogue, types, countMax }: WhatIfQuestion): readonly Candidate[] {
  if (new Set(types).size < types.length) {
    throw new InvalidInputError('--what-if names a device type twice: name each once.', { param: 'whatIf' })
  }
  if ((countMax + 1) ** types.length > CANDIDATES_MAX) {
    throw new InvalidInputError(
      `${types.length} types of up to ${countMax} devices make more than ${CANDIDATES_MAX} clusters: name fewer types, or lower --devices-max.`,
      { param: 'devicesMax' },
    )
  }
  for (const type of types) {
    // What is wrong with a type is said before anything is played.
    const plan = mixedPlan(description, catalogue, { [type]: 1 })
    if (Number.isFinite(dollarsOf(plan))) continue
    throw new InvalidInputError(
      `The catalogue has no price of ${type}, so clusters with it cannot be compared: give devices.${type}.dollars in a catalogue file with --catalogue.`,
      { param: 'whatIf' },
    )
  }
  return candidatesOf(types, countMax, (counts) => dollarsOf(mixedPlan(description, catalogue, counts)))
}
