/**
 * When a process that died is started again. Pure.
 *
 * The pause doubles from `pauseMsMin` to `pauseMsMax` while a process keeps dying soon after
 * it became ready, and starts over after one that lived for `calmMs`: 0.25, 0.5, 1, 2, 4, 8,
 * 10, 10, … seconds.
 */
export const pauseMsMin = 250
export const pauseMsMax = 10_000
export const calmMs = 30_000

export interface RestartState {
  /** Deaths in a row without a calm life between them. */
  readonly deaths: number
}

export const neverDied: RestartState = { deaths: 0 }

/** @param livedMs how long the process was ready before it died; 0 where it never was */
export function afterDeath(state: RestartState, livedMs: number): { state: RestartState; pauseMs: number } {
  const deaths = livedMs >= calmMs ? 1 : state.deaths + 1
  return { state: { deaths }, pauseMs: Math.min(pauseMsMax, pauseMsMin * 2 ** Math.min(deaths - 1, 20)) }
}
