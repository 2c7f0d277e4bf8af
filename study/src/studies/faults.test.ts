import { expect, test, vi } from 'vitest'
import { noCounts } from '../faults/case-counts.js'
import { quietContext } from '../testing/quiet-context.js'
import { studyFaults } from './faults.js'
import { faultsResult, replayResult } from './faults-results.js'

// A seed is made small by playing it many times.
vi.setConfig({ testTimeout: 60_000 })

const OPTIONS = { seed: 1, catalogue: [], out: '', seeds: 4 }

test('one seed with a planted mistake is told to the event that breaks the rule, with the command that plays it again', async () => {
  const replay = { ...OPTIONS, replay: 1, plant: 'doubled-emit' }
  const { figures, findings, tables, failed } = await studyFaults(replay, quietContext())
  expect(figures).toEqual({ violations: 1 })
  expect(failed, 'the violation was asked for').toBeUndefined()
  expect(findings[0]).toMatch(/^Seed 1 breaks I3: /)
  const [table] = tables
  expect(table?.rows.at(-1)?.who).toBe('VIOLATION')
  expect(table?.note).toContain('Again: npx kvasir study faults --replay 1 --plant doubled-emit')
})

test('a seed that breaks nothing is told to its end', async () => {
  const { figures, findings, tables } = await studyFaults({ ...OPTIONS, replay: 3 }, quietContext())
  expect(figures).toEqual({ violations: 0 })
  expect(findings[0]).toBe('Seed 3: every rule held.')
  expect(tables[0]?.rows.length).toBeGreaterThan(10)
})

test('what is stopped says how much is missing and claims nothing', async () => {
  const { figures, pointsSkipped, failed } = await studyFaults(OPTIONS, quietContext(AbortSignal.abort()))
  expect(figures).toMatchObject({ violations: 0, plantedBugsFound: 0, seeds: 0 })
  expect(pointsSkipped).toBe(11)
  expect(failed).toBeUndefined()
})

test('a mistake that is not known, or without a seed, is refused', async () => {
  await expect(studyFaults({ ...OPTIONS, plant: 'doubled-emit' }, quietContext())).rejects.toThrow(
    /--plant needs --replay/,
  )
  const unknown = { ...OPTIONS, replay: 1, plant: 'nonesuch' }
  await expect(studyFaults(unknown, quietContext())).rejects.toThrow(/no planted mistake nonesuch/)
})

test('a seed that breaks a rule is named with what broke, its story and the command that plays it again', () => {
  const violation = {
    rule: 'I3',
    message: 'r1 emits 2 tokens from 0 on.',
    atMs: 12.5,
    about: ['r1'],
  } as const
  const history = [{ atMs: 12.5, who: 'VIOLATION', what: 'I3: r1 emits 2 tokens from 0 on.' }]
  const story = { verdict: '', isViolated: true, scene: ['It takes 1 of 3 faults.'], history }
  const { figures, findings, tables, rows, failed } = faultsResult({
    ...{ seeds: 20, counts: noCounts(), bugs: [], pointsSkipped: 0 },
    broken: [{ seed: 9, violation }],
    stories: [{ seed: 9, story }],
  })
  expect(figures.violations).toBe(1)
  expect(findings[0]).toBe(
    '1 of 20 seeds breaks an invariant; npx kvasir study faults --replay 9 shows the first.',
  )
  expect(failed).toBe('1 seed breaks an invariant (npx kvasir study faults --replay 9 shows the first).')
  expect(rows[0]).toEqual({ seed: 9, rule: 'I3', message: violation.message, atMs: 12.5 })
  const [broken, told] = tables
  expect(broken?.rows[0]?.again).toBe('npx kvasir study faults --replay 9')
  expect(told?.title).toBe('Seed 9, made small')
  expect(told?.note).toBe('It takes 1 of 3 faults. Again: npx kvasir study faults --replay 9')
})

test('a planted mistake that was searched for and not found fails the study; one that was not searched for does not', () => {
  const failedOf = (seeds: number) => {
    const bugs = [{ name: 'doubled-emit', what: 'a token twice', seeds, broken: undefined }]
    return faultsResult({ seeds: 20, counts: noCounts(), broken: [], stories: [], bugs, pointsSkipped: 0 })
      .failed
  }
  expect(failedOf(300)).toBe('planted mistakes were not found (doubled-emit).')
  expect(failedOf(0)).toBeUndefined()
})

test('one seed that breaks a rule fails the study, unless a mistake was planted', () => {
  const story = { verdict: 'Seed 9 breaks I3: twice.', isViolated: true, scene: [], history: [] }
  expect(replayResult(9, undefined, story).failed).toBe('Seed 9 breaks I3: twice.')
  expect(replayResult(9, 'doubled-emit', story).failed).toBeUndefined()
  expect(replayResult(9, undefined, { ...story, isViolated: false }).failed).toBeUndefined()
})
