import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { StudyOptions } from '@kvasir/study/study'
import { Command } from 'commander'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { EXIT } from '../exit-codes.js'
import { main } from '../main.js'
import { listOption, numberOption } from './option-values.js'
import { addStudy } from './study-entry.js'

let folder: string
let given: unknown

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-study-'))
  vi.spyOn(process.stdout, 'write').mockReturnValue(true)
})
afterEach(() => {
  vi.restoreAllMocks()
  process.removeAllListeners('SIGINT')
  process.exitCode = undefined
  rmSync(folder, { recursive: true, force: true })
})

/** The command that a report says makes it again. */
async function commandOf(...args: readonly string[]): Promise<string> {
  const program = new Command('kvasir').exitOverride()
  addStudy(program.command('study'), async (work) => void (await work()), {
    name: 'sample',
    description: 'a sample',
    options: (command) =>
      command
        .option('--trace <file>', 'a trace')
        .option('--load <share>', 'a load', numberOption(0, 10), 0.8)
        .option('--policy <name>', 'a policy', listOption)
        .option('--contention', 'shared links'),
    run: (options: StudyOptions) => {
      given = options
      return Promise.resolve({
        title: 'A sample',
        findings: [],
        figures: {},
        rows: [],
        tables: [],
        plots: [],
        assumptions: [],
        pointsSkipped: 0,
      })
    },
  })
  await program.parseAsync(['study', 'sample', '--out', folder, ...args], { from: 'user' })
  return JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8')).command
}

test('a study is given its own options and those of every study', async () => {
  await commandOf('--load', '0.5', '--catalogue', 'a.yaml', '--catalogue', 'b.yaml')
  expect(given).toMatchObject({ load: 0.5, seed: 1, catalogue: ['a.yaml', 'b.yaml'], out: folder })
})

test('the command line that makes it again holds what was typed and the seed', async () => {
  expect(await commandOf()).toBe('kvasir study sample --seed 1')
  expect(await commandOf('--seed', '7', '--load', '.5')).toBe('kvasir study sample --load .5 --seed 7')
  expect(await commandOf('--policy', 'fcfs', '--policy', 'edf', '--contention')).toBe(
    'kvasir study sample --policy fcfs --policy edf --contention --seed 1',
  )
})

test('what only says where results go is left out, and words are quoted for a shell', async () => {
  expect(await commandOf('--json', '--workers', '2', '--no-report', '--trace', "it's a file")).toBe(
    `kvasir study sample --trace 'it'\\''s a file' --seed 1`,
  )
})

test('a wrong name of a study is said with the nearest one, whatever follows it', async () => {
  const said: string[] = []
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => said.push(String(text)) > 0)
  await main(['study', 'sacle', '--requests', '10'])
  expect(process.exitCode).toBe(2)
  expect(said.join('')).toMatch(/^kvasir: There is no study "sacle"; did you mean scale\./)
})

test('a word that no option takes is a wrong command line', async () => {
  vi.spyOn(process.stderr, 'write').mockReturnValue(true)
  await main(['study', 'faults', 'more', '--out', folder, '--seeds', '1'])
  expect(process.exitCode).toBe(EXIT.usage)
})
