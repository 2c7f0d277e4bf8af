import { expect, test, vi } from 'vitest'
import { quietContext } from '../testing/quiet-context.js'
import { studyFaults } from './faults.js'

// A seed is made small by playing it many times.
vi.setConfig({ testTimeout: 60_000 })

const OPTIONS = { seed: 1, catalogue: [], out: '', seeds: 4 }

test('one seed with a planted mistake is told to the event that breaks the rule, with the command that plays it again', async () => {
  const replay = { ...OPTIONS, replay: 1, plant: 'doubled-emit' }
  const { figures, findings, tables } = await studyFaults(replay, quietContext())
  expect(figures).toEqual({ violations: 1 })
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
  const { figures, pointsSkipped } = await studyFaults(OPTIONS, quietContext(AbortSignal.abort()))
  expect(figures).toMatchObject({ violations: 0, plantedBugsFound: 0, seeds: 0 })
  expect(pointsSkipped).toBe(11)
})

test('a mistake that is not known, or without a seed, is refused', async () => {
  await expect(studyFaults({ ...OPTIONS, plant: 'doubled-emit' }, quietContext())).rejects.toThrow(
    /--plant needs --replay/,
  )
  const unknown = { ...OPTIONS, replay: 1, plant: 'nonesuch' }
  await expect(studyFaults(unknown, quietContext())).rejects.toThrow(/no planted mistake nonesuch/)
})
