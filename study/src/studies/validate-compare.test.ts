/** What two plays of one workload are said to differ by. */
import { expect, test } from 'vitest'
import { compareRuns, type PlayedRequest } from './validate-compare.js'

function played(index: number, changes: Partial<PlayedRequest> = {}): PlayedRequest {
  return {
    requestId: `request-${index}`,
    arrivalMs: index * 1_000,
    promptTokens: 100,
    tokens: 11,
    firstTokenMs: index * 1_000 + 200,
    lastTokenMs: index * 1_000 + 1_200,
    isFinished: true,
    why: '',
    prefillDevice: 'gpu-0',
    decodeDevice: 'fpga-0',
    placements: 1,
    ...changes,
  }
}

const live = [0, 1, 2, 3].map((index) => played(index))

test('the same times have no error', () => {
  const { figures, rows } = compareRuns({ live, virtual: [live, live] })
  expect(figures).toMatchObject({ ttftError: 0, tpotError: 0, throughputError: 0, requests: 4 })
  expect(rows.filter(({ error }) => error !== 0)).toEqual([])
})

test('errors are of means, relative to the live run, without their sign in the figures', () => {
  const virtual = live.map((request) => ({
    ...request,
    firstTokenMs: request.firstTokenMs - 20,
    lastTokenMs: request.lastTokenMs + 30,
  }))
  const { figures, rows, tables } = compareRuns({ live, virtual: [virtual] })
  expect(figures.ttftError).toBeCloseTo(20 / 200)
  expect(figures.tpotError).toBeCloseTo(50 / 1_000)
  // 44 tokens in 4.2 s against 4.23 s.
  expect(figures.throughputError).toBeCloseTo(1 - 4.2 / 4.23)
  expect(rows[0]).toMatchObject({ measure: 'time to first token', live: 200, virtual: 180 })
  expect(rows[0]?.error).toBeCloseTo(-0.1)
  expect(tables[0]?.rows[0]?.error).toBeCloseTo(-10)
})

test('virtual figures are the mean of all plays, with the least and the most beside it', () => {
  const later = (ms: number) =>
    live.map((request) => ({ ...request, firstTokenMs: request.firstTokenMs + ms }))
  const { figures, rows } = compareRuns({ live, virtual: [later(-40), later(80)] })
  expect(figures.ttftError).toBeCloseTo(20 / 200)
  expect(rows[0]).toMatchObject({ live: 200, virtual: 220, virtualLeast: 160, virtualMost: 280 })
})

test('what failed in one run is counted, and left out of all', () => {
  const failed = played(1, { isFinished: false, firstTokenMs: Number.NaN, lastTokenMs: 99_999, why: 'lost' })
  const virtual = live.map((request) =>
    request.requestId === 'request-2' ? { ...request, isFinished: false } : request,
  )
  const { figures } = compareRuns({ live: [live[0] ?? failed, failed, ...live.slice(2)], virtual: [virtual] })
  expect(figures).toMatchObject({ ttftError: 0, failedLive: 1, failedVirtual: 1, requests: 4 })
})

test('moves and the GPU’s own decodes are counted in each run', () => {
  const virtual = [played(0, { placements: 2 }), played(1, { decodeDevice: 'gpu-0' }), ...live.slice(2)]
  expect(compareRuns({ live, virtual: [virtual] }).figures).toMatchObject({
    movedLive: 0,
    movedVirtual: 1,
    gpuDecodesLive: 0,
    gpuDecodesVirtual: 1,
  })
})
