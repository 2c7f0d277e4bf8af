import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { StudyOptions } from '../study.js'
import { quietContext } from '../testing/quiet-context.js'
import { KeptValues } from './kept-values.js'
import { type ReplayOptions, studyReplay } from './replay.js'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-replay-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

/** Twenty requests, half a second apart; each second one begins as the one before. */
function traceFile(): string {
  const file = join(folder, 'trace.jsonl')
  const rows = Array.from({ length: 20 }, (_, index) => {
    const hash_ids = [0, 1, 2, 3].map((id) => 10 * (index >> 1) + id)
    return JSON.stringify({ timestamp: 500 * index, input_length: 2_048, output_length: 20, hash_ids })
  })
  writeFileSync(file, rows.join('\n'))
  return file
}

function clusterFile(prefillCompute = 0.8): string {
  const file = join(folder, `cluster-${prefillCompute}.yaml`)
  writeFileSync(
    file,
    `model: llama-3.1-8b
preset: vllm
machines:
  - hostDollars: 1000
    devices:
      - { device: a100-80-pcie, count: 2, use: { prefillCompute: ${prefillCompute} } }
      - { device: u280, memories: [hbm] }
`,
  )
  return file
}

function options(changes: Partial<ReplayOptions> = {}): ReplayOptions & StudyOptions {
  return {
    ...{ seed: 1, catalogue: [], out: folder, trace: traceFile(), cluster: clusterFile() },
    ...{ brokenRows: 'refuse', requests: 50, from: 0, speed: 1, arrivals: 'trace', variation: 2 },
    ...{ sloTtft: 2_000, sloTpot: 100, attain: 0.9, policy: ['house'], devicesMax: 4 },
    ...{ years: 3, kwhDollars: 0.1 },
    ...changes,
  }
}

test('a trace on a cluster: all that finish are counted, what prompts share is reused, and the same comes out each time', async () => {
  const result = await studyReplay(options(), quietContext())
  expect(result.figures).toMatchObject({ requestsFinished: 20, requestsFailed: 0, blockTokens: 16 })
  // Half of the prompts were computed once already.
  expect(result.figures.hitShare).toBeGreaterThan(0.3)
  expect(result.figures.hitShare).toBeLessThanOrEqual(0.5)
  expect(result.figures.cpuS).toBeGreaterThan(0)
  expect(result.figures.cpuSBlock512).toBeGreaterThan(0)
  expect(result.figures.dollars).toBe(2 * 17_000 + 8_000 + 1_000)
  expect(result.plots.length).toBeGreaterThan(5)

  const again = await studyReplay(options(), quietContext())
  expect(again.rows).toEqual(result.rows)
  expect(again.plots).toEqual(result.plots)
})

test('one number of a device moves the results', async () => {
  const [quick, slow] = await Promise.all(
    [0.8, 0.4].map(async (share) => {
      return (await studyReplay(options({ cluster: clusterFile(share) }), quietContext())).figures
    }),
  )
  expect(Number(slow?.ttftP90Ms)).toBeGreaterThan(1.5 * Number(quick?.ttftP90Ms))
})

test('policies stand side by side, and without reuse nothing is reused', async () => {
  const policy = ['house', 'no-reuse', 'edf+no-host-tier']
  const { rows, tables } = await studyReplay(options({ policy }), quietContext())
  expect(rows.map((row) => row.policy)).toEqual(policy)
  expect(rows[1]?.hitShare).toBe(0)
  expect(Number(rows[0]?.ttftP50Ms)).toBeLessThanOrEqual(Number(rows[1]?.ttftP50Ms))
  expect(tables[0]?.rows).toHaveLength(3)
})

test('of policies that serve equally many none is called best', async () => {
  const easy = options({ policy: ['house', 'edf'], sloTtft: 1e8, sloTpot: 1e8 })
  const { findings } = await studyReplay(easy, quietContext())
  expect(findings).toContain('Under each of 2 policies as many requests meet the SLO (100.0 %).')
})

test('the largest rate meets the SLO, and made-up requests do without a trace', async () => {
  const { trace: _trace, ...rest } = options({ goodput: true, rate: 4, requests: 60, sloTtft: 400 })
  const { figures } = await studyReplay(rest, quietContext())
  expect(figures.requestsFinished).toBe(60)
  expect(figures.goodputMaxPerS).toBeGreaterThan(1)
})

test('the smallest cluster meets the SLO, and one device less of any type was tried or ruled out', async () => {
  const asked = options({ whatIf: ['a100-80-pcie', 'u280'], sloTtft: 800, sloTpot: 60 })
  const { figures, tables } = await studyReplay(asked, quietContext())
  const table = tables.find(({ title }) => title.startsWith('Clusters'))
  const smallest = table?.rows.find((row) => row.verdict === 'the smallest')
  const meeting = table?.rows.filter((row) => row.verdict !== 'misses') ?? []
  expect(smallest?.dollars).toBe(Math.min(...meeting.map((row) => Number(row.dollars))))
  expect(figures.whatIfDollars).toBe(smallest?.dollars)
})

test.each([
  ['a policy nobody knows', { policy: ['hous'] }, /did you mean house/],
  ['an arrival model without a rate', { arrivals: 'poisson' }, /needs a rate/],
  ['a rate without an arrival model', { rate: 3 }, /needs an arrival model/],
  ['a window that ends before it begins', { from: 5, to: 2 }, /window is empty/],
  ['a window without requests', { from: 5_000 }, /no request of the trace/],
  [
    'a type nobody knows',
    { whatIf: ['u281'] },
    /^--what-if: the catalogue has no device u281; did you mean u280/,
  ],
  ['a type named twice', { whatIf: ['u280', 'u280'] }, /twice/],
  ['a type without a price', { whatIf: ['a100-40-sxm'] }, /no price of a100-40-sxm/],
] as const)('%s is refused with what to do', async (_what, changes, message) => {
  await expect(studyReplay(options(changes), quietContext())).rejects.toThrow(message)
  await expect(studyReplay(options(changes), quietContext())).rejects.toThrow(InvalidInputError)
})

test('percentiles are exact while all values are kept, and near where only some are', () => {
  const few = new KeptValues(1_000)
  const many = new KeptValues(1_000)
  for (let value = 1; value <= 100; value += 1) few.add(value)
  for (let value = 1; value <= 100_000; value += 1) many.add((value * 7_919) % 100_000)
  expect(few.percentiles([0, 0.5, 0.99, 1])).toEqual([1, 50, 99, 100])
  expect(Math.abs((many.percentiles([0.5])[0] ?? 0) - 50_000)).toBeLessThan(5_000)
  expect(many.count).toBe(100_000)
})
