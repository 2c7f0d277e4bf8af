/** `kvasir study` as a user runs it: the same bytes for the same seed, and Ctrl-C keeps what is done. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { StudyDocument } from '@kvasir/study/report/document'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Workplace } from './support/commands.js'

let workplace: Workplace

beforeAll(() => {
  workplace = new Workplace()
})
afterAll(() => workplace?.close())

const kvasir = 'exec node cli/bin/kvasir.mjs'

function results(folder: string): StudyDocument {
  return JSON.parse(readFileSync(join(workplace.home, folder, 'results.json'), 'utf8'))
}

test('without a name it lists the studies; a wrong one is answered with the nearest', async () => {
  const listed = await workplace.run(`${kvasir} study`)
  expect(listed.code).toBe(0)
  expect(listed.stdout).toMatch(/^glitches {2}/m)
  const wrong = await workplace.run(`${kvasir} study glitch --requests 1`)
  expect(wrong).toMatchObject({ code: 2, stdout: '' })
  expect(wrong.stderr).toContain('There is no study "glitch"; did you mean glitches.')
})

test('the same seed gives the same bytes, whatever the number of workers', { timeout: 180_000 }, async () => {
  const texts: string[] = []
  for (const workers of [1, 2]) {
    const folder = `studies/${workers}`
    const command = `${kvasir} study glitches --corners --requests 32 --workers ${workers}`
    const { code, stderr } = await workplace.run(`${command} --out "$KVASIR_HOME/${folder}"`)
    expect(code, stderr).toBe(0)
    const { environment, ...rest } = results(folder)
    expect(environment.workers).toBe(workers)
    texts.push(JSON.stringify(rest))
    expect(existsSync(join(workplace.home, folder, 'report.html'))).toBe(true)
  }
  expect(texts[0]).toBe(texts[1])
})

test('Ctrl-C keeps what is done and leaves no process', { timeout: 180_000 }, async () => {
  const study = workplace.start(`${kvasir} study glitches --requests 100000 --json`)
  await study.untilPrints(/of \d+ points/)
  interrupt(study.child.pid)
  const { code, stdout, stderr } = await study.ended()
  expect(code, stderr).toBe(130)
  expect(stderr).toMatch(/stopped: \d+ points left out/)
  const document = results('studies/glitches')
  expect(document.pointsSkipped).toBeGreaterThan(0)
  expect(JSON.parse(stdout)).toEqual(document)
  await workplace.untilNoProcess()
})

test('a second Ctrl-C ends it at once and writes nothing', { timeout: 180_000 }, async () => {
  const study = workplace.start(`${kvasir} study glitches --requests 100000 --out "$KVASIR_HOME/none"`)
  await study.untilPrints(/of \d+ points/)
  interrupt(study.child.pid)
  await study.untilPrints(/stopping/)
  interrupt(study.child.pid)
  expect((await study.ended()).code).toBe(130)
  expect(existsSync(join(workplace.home, 'none/results.json'))).toBe(false)
  await workplace.untilNoProcess()
})

test('a folder that cannot be used is one sentence', async () => {
  const { code, stderr } = await workplace.run(`${kvasir} study glitches --out /dev/null/here`)
  expect(code).toBe(2)
  expect(stderr).toMatch(
    /^kvasir: The results cannot be written to \/dev\/null\/here \(.*\): name another folder with --out\.\n$/,
  )
})

function interrupt(pid: number | undefined): void {
  if (pid !== undefined) process.kill(-pid, 'SIGINT')
}
