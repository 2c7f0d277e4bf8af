/** What the fault study found, as tables, figures and plots. */
import type { CaseCounts } from '../faults/case-counts.js'
import type { Story } from '../faults/case-story.js'
import { FAULT_KINDS } from '../faults/fault-case.js'
import { RULES } from '../faults/violation.js'
import type { StudyPlot, StudyResult, StudyTable } from '../study.js'
import type { BrokenSeed } from './faults-point.js'

export interface FoundBug {
  readonly name: string
  readonly what: string
  /** Seeds that were played until it was found; 0 where a stop left its search out. */
  readonly seeds: number
  readonly broken: BrokenSeed | undefined
}

export interface FaultsFound {
  readonly seeds: number
  readonly counts: CaseCounts
  readonly broken: readonly BrokenSeed[]
  /** Of the first ones. */
  readonly stories: readonly { readonly seed: number; readonly story: Story }[]
  readonly bugs: readonly FoundBug[]
  readonly pointsSkipped: number
}

/** The one command that plays a seed again. */
export function replayCommand(seed: number, plant?: string): string {
  return `npx kvasir study faults --replay ${seed}${plant === undefined ? '' : ` --plant ${plant}`}`
}

export function faultsResult(found: FaultsFound): StudyResult {
  const { seeds, counts, broken, stories, bugs, pointsSkipped } = found
  const plantedBugsFound = bugs.filter((bug) => bug.broken !== undefined).length
  const bugsPlayed = bugs.filter((bug) => bug.seeds > 0 || bug.broken !== undefined).length
  const unseen = FAULT_KINDS.filter((kind) => counts.faults[kind] === 0)
  return {
    title: 'Faults from seeds: do the invariants hold, whatever befalls a cluster?',
    findings: [
      seeds === 0
        ? 'It was stopped before a seed was played.'
        : broken.length === 0
          ? `Every invariant held after each of ${counts.coreEvents.toLocaleString('en')} events of ${seeds.toLocaleString('en')} seeds.`
          : `${broken.length} of ${seeds.toLocaleString('en')} seeds ${broken.length === 1 ? 'breaks' : 'break'} an invariant; ${replayCommand(broken[0]?.seed ?? 0)} shows the first.`,
      bugsPlayed === bugs.length
        ? `${plantedBugsFound} of ${bugs.length} planted mistakes were found.`
        : `${plantedBugsFound} of the ${bugsPlayed} planted mistakes that were played were found; ${bugs.length - bugsPlayed} were not played.`,
      `${counts.recovered.toLocaleString('en')} requests lost their place, went on elsewhere, and finished with every token once.`,
      ...(unseen.length === 0 || seeds === 0 ? [] : [`Never struck: ${unseen.join(', ')}.`]),
    ],
    figures: {
      violations: broken.length,
      plantedBugsFound,
      seeds,
      coreEvents: counts.coreEvents,
      requests: counts.requests,
      recoveredRequests: counts.recovered,
      faultKinds: FAULT_KINDS.length - unseen.length,
    },
    rows: [
      ...broken.map(({ seed, violation: { rule, message, atMs } }) => ({ seed, rule, message, atMs })),
      ...bugs.map((bug) => ({
        bug: bug.name,
        seed: bug.broken?.seed ?? null,
        rule: bug.broken?.violation.rule ?? null,
        message: bug.broken?.violation.message ?? null,
      })),
    ],
    tables: [
      ...(broken.length > 0 ? [brokenTable(broken)] : []),
      ...stories.map(({ seed, story }) => storyTable(seed, undefined, story)),
      bugTable(bugs),
      faultTable(counts),
      courseTable(counts),
    ],
    plots: [faultPlot(counts), bugPlot(bugs)],
    assumptions: [
      'Clusters are made up: 2 to 5 devices with little memory, few slots and short queues, so that everything runs short; their times are modelled.',
      'Both cores run as they serve. What stands between them, network and agents’ shells, is that of the virtual cluster, not the real one.',
      'Content of blocks is a name: what was computed or received is compared with what its hash says wherever it is used.',
      `Rules: ${RULES.join(', ')}. I1 to I6 as in ARCHITECTURE.md; books: what a core counts is what there is; calm: once all faults are over every request is served; crash: a core threw. I7 shows as a call that breaks; checksums themselves are tested with the real transport.`,
    ],
    pointsSkipped,
    ...failure(broken, bugs),
  }
}

/** A mistake that nobody searched for is not missed. */
function failure(broken: readonly BrokenSeed[], bugs: readonly FoundBug[]): Pick<StudyResult, 'failed'> {
  const [first] = broken
  const missed = bugs.filter((bug) => bug.seeds > 0 && bug.broken === undefined).map(({ name }) => name)
  const reasons = [
    ...(first
      ? [
          `${broken.length} ${broken.length === 1 ? 'seed breaks' : 'seeds break'} an invariant (${replayCommand(first.seed)} shows the first)`,
        ]
      : []),
    ...(missed.length > 0 ? [`planted mistakes were not found (${missed.join(', ')})`] : []),
  ]
  return reasons.length === 0 ? {} : { failed: `${reasons.join(', and ')}.` }
}

/** One seed alone. With a planted mistake a violation is what was asked for. */
export function replayResult(seed: number, plant: string | undefined, story: Story | undefined): StudyResult {
  return {
    title: `Faults from seed ${seed}`,
    findings: story === undefined ? [] : [story.verdict, ...story.scene],
    figures: { violations: story?.isViolated === true ? 1 : 0 },
    rows: (story?.history ?? []).map(({ atMs, who, what }) => ({ atMs, who, what })),
    tables: story === undefined ? [] : [storyTable(seed, plant, story)],
    plots: [],
    assumptions: ['Devices are made up, and their times modelled.'],
    pointsSkipped: story === undefined ? 1 : 0,
    ...(story?.isViolated === true && plant === undefined ? { failed: story.verdict } : {}),
  }
}

function storyTable(
  seed: number,
  plant: string | undefined,
  { scene, history, isViolated }: Story,
): StudyTable {
  return {
    title: isViolated ? `Seed ${seed}, made small` : `The end of seed ${seed}`,
    columns: [
      { key: 'atMs', label: 'at', unit: 'ms' },
      { key: 'who', label: 'who' },
      { key: 'what', label: '< was told, > answered' },
    ],
    rows: history.map(({ atMs, who, what }) => ({ atMs: atMs.toFixed(1), who, what })),
    note: [...scene, `Again: ${replayCommand(seed, plant)}`].join(' '),
  }
}

function brokenTable(broken: readonly BrokenSeed[]): StudyTable {
  return {
    title: 'Violations',
    columns: [
      { key: 'seed', label: 'seed' },
      { key: 'rule', label: 'rule' },
      { key: 'message', label: 'what' },
      { key: 'again', label: 'again' },
    ],
    rows: broken.map(({ seed, violation: { rule, message } }) => {
      return { seed, rule, message, again: replayCommand(seed) }
    }),
  }
}

function bugTable(bugs: readonly FoundBug[]): StudyTable {
  return {
    title: 'Planted mistakes',
    columns: [
      { key: 'name', label: 'mistake' },
      { key: 'what', label: 'what is wrong' },
      { key: 'seeds', label: 'seeds until found' },
      { key: 'rule', label: 'rule' },
      { key: 'message', label: 'found as' },
    ],
    rows: bugs.map(({ name, what, seeds, broken }) => ({
      name,
      what,
      seeds: broken === undefined ? null : seeds,
      rule: broken?.violation.rule ?? null,
      message: broken?.violation.message ?? 'not found',
    })),
    note: 'kvasir study faults --replay SEED --plant MISTAKE shows one of them.',
  }
}

function faultTable(counts: CaseCounts): StudyTable {
  return {
    title: 'What befell the clusters',
    columns: [
      { key: 'kind', label: 'fault' },
      { key: 'times', label: 'times' },
      { key: 'befallen', label: 'messages and calls that fared badly' },
    ],
    rows: FAULT_KINDS.map((kind) => ({
      kind,
      times: counts.faults[kind],
      befallen: counts.befallen[kind] === 0 ? null : counts.befallen[kind],
    })),
  }
}

function courseTable(counts: CaseCounts): StudyTable {
  const rows: readonly (readonly [string, number])[] = [
    ['requests', counts.requests],
    ['finished', counts.finished],
    ['failed: refused, shed, out of time, no device', counts.failed],
    ['left by their clients', counts.cancelled],
    ['finished after they lost their place', counts.recovered],
    ['placements given up', counts.replaced],
    ['preempted', counts.preempted],
    ['refused by devices', counts.refused],
    ['with a beginning that was reused', counts.reused],
    ['blocks demoted to hosts', counts.demotedBlocks],
    ['snapshots asked for', counts.snapshots],
  ]
  return {
    title: 'What became of requests',
    columns: [
      { key: 'what', label: '' },
      { key: 'count', label: 'count' },
    ],
    rows: rows.map(([what, count]) => ({ what, count })),
  }
}

function faultPlot(counts: CaseCounts): StudyPlot {
  return {
    title: 'Faults that were injected',
    kind: 'bars',
    x: { label: 'fault' },
    y: { label: 'times' },
    series: [{ name: 'times', points: FAULT_KINDS.map((kind) => ({ x: kind, y: counts.faults[kind] })) }],
  }
}

function bugPlot(bugs: readonly FoundBug[]): StudyPlot {
  return {
    title: 'Seeds until a planted mistake was found',
    kind: 'bars',
    x: { label: 'mistake' },
    y: { label: 'seeds', scale: 'log' },
    series: [
      {
        name: 'seeds',
        points: bugs.map(({ name, seeds, broken }) => ({ x: name, y: broken === undefined ? null : seeds })),
      },
    ],
  }
}
