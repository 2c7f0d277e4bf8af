/** `study scale`, short: what its figures rest on, with few requests and cases. */
import { expect, test } from 'vitest'
import { quietContext } from '../testing/quiet-context.js'
import { studyScale } from './scale.js'
import { point, type ScaleInput, type ScaleResult } from './scale-point.js'

const options = { requests: 60, seed: 1, catalogue: [], out: '' }
const load = { kind: 'load', catalogue: [], seed: 1, devices: 64, ttftDeadlineMs: 2_000 } as const

function played(input: ScaleInput): ScaleResult {
  return point(input, () => {}) as ScaleResult
}

/** All that does not depend on the machine. */
function virtual({ cpuS: _cpuS, heapBytesMax: _heapBytesMax, ...rest }: ScaleResult) {
  return rest
}

test('every request ends, most in time at a low rate, and the same comes out again', () => {
  const input = { ...load, requests: 150, ratePerS: 40 }
  const once = played(input)
  expect(once).toMatchObject({ finished: 150, failed: 0 })
  expect(once.good).toBeGreaterThan(140)
  expect(once.events).toBeGreaterThan(150)
  expect(virtual(played(input))).toEqual(virtual(once))
})

test('where far more comes than can be served, fewer are in time and none is lost', () => {
  const flood = played({ ...load, requests: 600, ratePerS: 3_000, ttftDeadlineMs: 500 })
  expect(flood.finished + flood.failed).toBe(600)
  expect(flood.good).toBeLessThan(600)
  expect(flood.good).toBeGreaterThan(0)
})

test('decisions are timed, each of them', () => {
  const { finished, decideP50Us, decideP99Us } = played({
    ...{ ...load, kind: 'decide', devices: 30, requests: 60, ratePerS: 20 },
  })
  expect(finished).toBe(60)
  expect(decideP50Us).toBeGreaterThan(0)
  expect(decideP99Us).toBeGreaterThanOrEqual(decideP50Us)
})

test('no way to place requests is better than the best of all', () => {
  const { quality } = played({ ...load, kind: 'quality', devices: 3, requests: 2, ratePerS: 0 })
  expect(quality?.placementsTried).toBeGreaterThan(9)
  expect(quality?.bestMs).toBeGreaterThan(0)
  expect(quality?.houseMs).toBeGreaterThanOrEqual(quality?.bestMs ?? Number.NaN)
})

test('its figures and plots come from all points that were played', { timeout: 60_000 }, async () => {
  const quiet = quietContext()
  const isShort = ({ kind, devices }: ScaleInput) => kind !== 'quality' && devices < 300
  const result = await studyScale(options, {
    ...quiet,
    async points<Input, Result>(module: URL, inputs: readonly Input[], what: string) {
      // As after a stop: the long ones are left out.
      const short = inputs.filter((input) => isShort(input as ScaleInput))
      const results = await quiet.points<Input, Result>(module, short, what)
      return inputs.map((input) => results[short.indexOf(input)])
    },
  })
  const { figures, findings, rows, plots } = result
  expect(figures.requestsPerCpuS).toBeGreaterThan(0)
  expect(figures.sustainedPerS).toBeGreaterThan(10)
  expect(figures.goodputAt3x).toBeGreaterThan(0)
  expect(findings.some((finding) => finding.startsWith('60 requests took'))).toBe(true)
  expect(findings.join()).not.toContain('NaN')
  expect(rows.length).toBeGreaterThan(12)
  expect(plots.length).toBeGreaterThan(0)
})

test('what is stopped before anything was played claims nothing', async () => {
  const { findings } = await studyScale(options, quietContext(AbortSignal.abort()))
  expect(findings).toEqual([])
})
