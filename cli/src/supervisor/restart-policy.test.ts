import { expect, test } from 'vitest'
import { afterDeath, calmMs, neverDied, pauseMsMax, type RestartState } from './restart-policy.js'

function pauses(livesMs: readonly number[]): number[] {
  let state: RestartState = neverDied
  return livesMs.map((livedMs) => {
    const next = afterDeath(state, livedMs)
    state = next.state
    return next.pauseMs
  })
}

test('the pause doubles to its bound while a process keeps dying', () => {
  expect(pauses(Array.from({ length: 8 }, () => 0))).toEqual([
    250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000,
  ])
  expect(pauses(Array.from({ length: 2_000 }, () => 0)).at(-1)).toBe(pauseMsMax)
})

test('a calm life starts it over', () => {
  expect(pauses([0, 0, 0, calmMs, 0])).toEqual([250, 500, 1_000, 250, 500])
})
