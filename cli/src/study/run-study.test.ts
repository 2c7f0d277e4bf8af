import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { StudyDocument } from '@kvasir/study/report/document'
import type { StudyContext, StudyResult } from '@kvasir/study/study'
import type { SampleInput } from '@kvasir/study/testing/sample-point'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { EXIT } from '../exit-codes.js'
import { runStudy, type StudyRunOptions } from './run-study.js'

const sample = new URL('../../../study/dist/testing/sample-point.js', import.meta.url)
let folder: string
const printed: string[] = []
const said: string[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-study-'))
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => printed.push(String(text)) > 0)
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => said.push(String(text)) > 0)
})
afterEach(() => {
  vi.restoreAllMocks()
  process.removeAllListeners('SIGINT')
  rmSync(folder, { recursive: true, force: true })
  printed.length = 0
  said.length = 0
})

async function doubles({ points }: StudyContext, inputs: readonly SampleInput[]): Promise<StudyResult> {
  const values = await points<SampleInput, number>(sample, inputs, 'doubles')
  const done = values.filter((value) => value !== undefined)
  return {
    title: 'What is twice as much?',
    findings: [`${done.length} numbers were doubled.`],
    figures: { sum: done.reduce((a, b) => a + b, 0), unknown: Number.NaN },
    rows: values.map((value, index) => ({ index, value: value ?? null, ratio: Number.POSITIVE_INFINITY })),
    tables: [],
    plots: [],
    assumptions: ['Numbers are numbers.'],
    pointsSkipped: values.length - done.length,
  }
}

const inputs: SampleInput[] = [1, 2, 3, 4].map((value) => ({ kind: 'double', value }))

function start(options: Partial<StudyRunOptions> = {}): Promise<number> {
  return runStudy({
    name: 'doubles',
    commandLine: 'kvasir study doubles --seed 1',
    folder,
    json: false,
    report: true,
    workers: 2,
    run: (context) => doubles(context, inputs),
    ...options,
  })
}

function results(from = folder): StudyDocument {
  return JSON.parse(readFileSync(join(from, 'results.json'), 'utf8'))
}

test('it prints what was found and writes results.json and report.html, and nothing else', async () => {
  expect(await start()).toBe(EXIT.ok)
  expect(printed.join('')).toContain('4 numbers were doubled.')
  expect(printed.join('')).toContain('Numbers are numbers.')
  expect(readdirSync(folder).sort()).toEqual(['report.html', 'results.json'])
  expect(readFileSync(join(folder, 'report.html'), 'utf8')).toContain('4 numbers were doubled.')
  expect(results()).toMatchObject({ name: 'doubles', pointsSkipped: 0, figures: { sum: 20 } })
})

test('--json prints the very document of results.json, and nothing beside it', async () => {
  expect(await start({ json: true, report: false })).toBe(EXIT.ok)
  expect(printed.join('')).toBe(readFileSync(join(folder, 'results.json'), 'utf8'))
  expect(existsSync(join(folder, 'report.html'))).toBe(false)
})

test('what is no finite number is null in rows and absent from figures', async () => {
  await start({ json: true })
  expect(results().rows[0]).toEqual({ index: 0, value: 2, ratio: null })
  expect(results().figures).toEqual({ sum: 20 })
})

test('the same study gives the same bytes but for its environment, with one worker and with several', async () => {
  const texts: string[] = []
  for (const workers of [1, 2, 2]) {
    await start({ json: true, workers })
    const { environment, ...rest } = results()
    expect(environment.workers).toBe(workers)
    texts.push(JSON.stringify(rest))
  }
  expect(new Set(texts).size).toBe(1)
})

test('Ctrl-C keeps what is done, says how much is missing, and exits as interrupted', async () => {
  const run = async (context: StudyContext) => {
    const first = doubles(context, inputs.slice(0, 2))
    await first
    process.emit('SIGINT')
    return doubles(context, inputs)
  }
  expect(await start({ run })).toBe(EXIT.interrupted)
  expect(results()).toMatchObject({ pointsSkipped: 4, rows: [{ value: null }, {}, {}, {}] })
  expect(said.join('')).toContain('4 points left out')
  expect(readFileSync(join(folder, 'report.html'), 'utf8')).toContain('4 points are missing')
})

test('a study that found something wrong gives all its results, says so, and exits as failed', async () => {
  const run = async (context: StudyContext) => ({
    ...(await doubles(context, inputs)),
    failed: 'Two numbers are odd.',
  })
  expect(await start({ run, json: true })).toBe(EXIT.failure)
  expect(said.join('')).toBe('kvasir: Two numbers are odd.\n')
  expect(printed.join('')).toBe(readFileSync(join(folder, 'results.json'), 'utf8'))
  expect(readdirSync(folder).sort()).toEqual(['report.html', 'results.json'])
  const stopped = (context: StudyContext) => {
    process.emit('SIGINT')
    return run(context)
  }
  expect(await start({ run: stopped })).toBe(EXIT.interrupted)
})

test('a study that has nothing to give when it is stopped says so', async () => {
  const run = () => {
    process.emit('SIGINT')
    return Promise.reject(new Error('half of it is missing'))
  }
  expect(await start({ run })).toBe(EXIT.interrupted)
  expect(said.join('')).toContain('nothing was written')
  expect(readdirSync(folder)).toEqual([])
})

test('a study that fails writes nothing', async () => {
  const run = (context: StudyContext) => doubles(context, [{ kind: 'refuse' }])
  await expect(start({ run })).rejects.toBeInstanceOf(InvalidInputError)
  expect(readdirSync(folder)).toEqual([])
})

test('a folder that takes no files is said before anything is computed', async () => {
  writeFileSync(join(folder, 'file'), '')
  const run = vi.fn(() => Promise.reject(new Error('computed')))
  const failed = start({ run, folder: join(folder, 'file', 'inside') })
  await expect(failed).rejects.toBeInstanceOf(InvalidInputError)
  await expect(failed).rejects.toThrow('name another folder with --out')
  await expect(start({ run, folder: join(folder, 'file') })).rejects.toThrow('name another folder with --out')
  expect(run).not.toHaveBeenCalled()
})

test('folders that are missing are made; below /proc, where none can be, it says so at once', async () => {
  const deep = join(folder, 'a', 'b')
  expect(await start({ folder: deep })).toBe(EXIT.ok)
  expect(existsSync(join(deep, 'results.json'))).toBe(true)
  await expect(start({ folder: '/proc/none/here' })).rejects.toThrow(/cannot be written to .*--out/)
  const file = join(deep, 'results.json')
  await expect(start({ folder: file })).rejects.toThrow(/it is a file\): name another folder/)
})
