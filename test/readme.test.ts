/** The README's commands, run as they stand there. A command this test does not know fails it. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { projectRoot } from './support/cluster.js'
import { type RunningCommand, Workplace } from './support/commands.js'

const readme = readFileSync(join(projectRoot, 'README.md'), 'utf8')
const commands = [...readme.matchAll(/```sh\n([\s\S]*?)```/g)]
  .flatMap((block) => (block[1] ?? '').replaceAll(/\\\n\s*/g, ' ').split('\n'))
  .map((line) => line.replace(/\s+#\s.*$/, '').trim())
  .filter((line) => line !== '')

let workplace: Workplace
let start: RunningCommand
let url = ''
let traceId = ''
/** Of the `kvasir run` before. */
let requestId = ''

beforeAll(async () => {
  workplace = new Workplace()
  start = workplace.start('npm start')
  url = (await start.untilPrints(/http:\/\/127\.0\.0\.1:\d+/))[0] ?? ''
  traceId = (await start.untilPrints(/\b[0-9a-f]{32}\b/))[0] ?? ''
  await start.untilPrints(/Ctrl-C/)
}, 180_000)
afterAll(() => workplace?.close())

/** What a command must print. `npm start` runs already; `npm test` is what runs this. */
const expectations: Record<string, RegExp | 'runs'> = {
  'npm start': 'runs',
  'npm test': 'runs',
  'npx kvasir models load': /dummy:llama-tiny/,
  'npx kvasir models unload': /gpu-0 +exact +unloads it/,
  'npx kvasir models': /skald[\s\S]*dummy:llama-tiny|dummy:llama-tiny[\s\S]*skald/,
  'npx kvasir run': /\S+ \S+/,
  'npx kvasir devices': /fpga-1/,
  'npx kvasir trace': /prefill\.run/,
  'npx kvasir explain': /gpu-0 prefills[\s\S]*attention: page-bounds/,
  'npx kvasir kv': /host-0 +dram/,
  'npx kvasir study faults': /Every invariant held/,
  'npx kvasir study glitches': /1 GPU/,
  'npx kvasir study': /replay[\s\S]*scale/,
  'npx kvasir corpus create': /made the corpus tales/,
  printf: /added 1 document to tales/,
  'npx kvasir corpus search': /1 +The Fox and the Grapes/,
  curl: /"object":"chat\.completion"/,
}

test('the README has commands, and each is known here', () => {
  expect(commands.length).toBeGreaterThan(4)
  const unknown = commands.filter(
    (line) => !Object.keys(expectations).some((known) => line.startsWith(known)),
  )
  expect(unknown).toEqual([])
})

for (const line of commands) {
  const known = Object.keys(expectations).find((key) => line.startsWith(key)) ?? ''
  const expected = expectations[known]
  if (!(expected instanceof RegExp)) continue
  test(`${line.slice(0, 60)} works as the README says`, { timeout: 60_000 }, async () => {
    const result = await workplace.run(
      line
        .replace('TRACE_ID', traceId)
        .replace('REQUEST_ID', requestId)
        .replace('http://127.0.0.1:8080', url),
    )
    expect(result.stderr + result.stdout).toMatch(expected)
    expect(result.code).toBe(0)
    requestId = /req-[0-9a-f]+/.exec(result.stderr)?.[0] ?? requestId
  })
}

test('npm start shows who prefilled, who decoded, and where to go next', () => {
  expect(start.stdout).toMatch(/prefill\w*\s.*gpu-0/i)
  expect(start.stdout).toMatch(/decode\w*\s.*fpga-\d/i)
  for (const word of ['TTFT', 'TPOT', 'curl', 'openai', 'kvasir trace']) expect(start.stdout).toContain(word)
})

test('Ctrl-C drains and leaves no process', { timeout: 30_000 }, async () => {
  // A terminal sends SIGINT to the whole foreground group.
  process.kill(-(start.child.pid ?? 0), 'SIGINT')
  await start.ended()
  await workplace.untilNoProcess()
})
