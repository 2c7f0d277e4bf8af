import { mkdirSync } from 'node:fs'
import { expect, test } from 'vitest'
import { ancestorsUpToNpm } from '#setup/ancestors'
import { nodeVersionProblem } from '#setup/node-version'
import { countTests } from '#setup/run-tests'
import { sentenceOf } from '#setup/set-up'

test('Node is new enough from 20.19.0 on', () => {
  for (const version of ['20.19.0', '20.20.2', '22.0.0', '100.1.0']) {
    expect(nodeVersionProblem(version)).toBeUndefined()
  }
  for (const version of ['20.18.3', '18.20.0', '9.99.99'])
    expect(nodeVersionProblem(version)).toContain(version)
})

test('tests are counted; a file that cannot run and a silent failure count as failed', () => {
  const file = (status: string, tests: number) => ({
    status,
    assertionResults: Array.from({ length: tests }),
  })
  const report = (passed: number, failed: number, ...testResults: ReturnType<typeof file>[]) => ({
    numPassedTests: passed,
    numFailedTests: failed,
    testResults,
  })
  expect(countTests(report(3, 0, file('passed', 3)), 0)).toEqual({ passed: 3, failed: 0 })
  expect(countTests(report(3, 1, file('failed', 4), file('failed', 0)), 1)).toEqual({ passed: 3, failed: 2 })
  expect(countTests(report(3, 0, file('passed', 3)), 1)).toEqual({ passed: 3, failed: 1 })
  expect(countTests(report(0, 0), 0)).toEqual({ passed: 0, failed: 1 })
  expect(countTests(undefined, 1)).toEqual({ passed: 0, failed: 1 })
})

test('without npm nothing is watched', () => {
  expect(ancestorsUpToNpm(process.ppid, {})).toEqual([])
  expect(ancestorsUpToNpm(1, { npm_lifecycle_event: 'start' })).toEqual([])
})

test('a checkout that cannot be written is one sentence; a fault of set-up keeps its stack', () => {
  let refused: unknown
  try {
    mkdirSync('/dev/null/below-a-file')
  } catch (error) {
    refused = error
  }
  expect(sentenceOf(refused)).toMatch(/^Set-up cannot work in \S+: ENOTDIR.*try again\.$/)
  expect(sentenceOf(new TypeError('x is not a function'))).toContain('\n    at ')
})
