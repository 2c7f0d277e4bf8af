/** A paced model's steps end when the catalogue says, on a clock that the test moves. */
import type { StepWork } from '@kvasir/catalogue/device-times'
import type { DriverModel, StepResult, StepSequence } from '@kvasir/engine/device-driver'
import { EXACT } from '@kvasir/engine/numerics'
import { systemClock } from '@kvasir/runtime/clock'
import { delay } from '@kvasir/runtime/deferred'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { FAKE_MODEL, FAKE_VOCABULARY, FakeDriver } from '../testing/fake-driver.js'
import { PacedModel } from './paced-model.js'
import { StepSchedule } from './step-schedule.js'

const LAYERS = 4
const STEP_MS = 20

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

interface Device {
  readonly models: readonly PacedModel[]
  readonly counts: { steps: number; lateSteps: number; lateMs: number; busyMs: number }
}

/** `beforeLayer`: what each layer really takes. */
async function device({
  beforeLayer = async () => {},
  stepMs = STEP_MS,
  models = 1,
}: {
  readonly beforeLayer?: () => Promise<void>
  readonly stepMs?: number
  readonly models?: number
} = {}): Promise<Device> {
  const driver = new FakeDriver({ layers: LAYERS, beforeLayer })
  const schedule = new StepSchedule(systemClock)
  const counts = { steps: 0, lateSteps: 0, lateMs: 0, busyMs: 0 }
  const paced = await Promise.all(
    Array.from({ length: models }, async () => {
      const inner = await driver.loadModel({ model: FAKE_MODEL, numerics: EXACT, kvBlocksMax: 8 })
      return pacedOf(inner, schedule, counts, stepMs)
    }),
  )
  return { models: paced, counts }
}

function pacedOf(inner: DriverModel, schedule: StepSchedule, counts: Device['counts'], stepMs: number) {
  const times = { stepMs: ({ prefills, decodes }: StepWork) => stepMs * (prefills.length + decodes.length) }
  const workOf = (sequences: readonly StepSequence[]): StepWork => ({
    prefills: [],
    decodes: sequences.map(() => 1),
  })
  return new PacedModel({ inner, times, workOf, schedule, counts, clock: systemClock })
}

const SEQUENCE: StepSequence = {
  blocks: Uint32Array.of(0),
  start: 0,
  tokens: Uint32Array.of(1, 2, 3),
  wantLogits: true,
}

/** When a promise settles, on the clock. */
function settledAt<T>(promise: Promise<T>): {
  atMs: number | undefined
  value: T | undefined
  error: unknown
} {
  const seen: { atMs: number | undefined; value: T | undefined; error: unknown } = {
    atMs: undefined,
    value: undefined,
    error: undefined,
  }
  promise.then(
    (value) => Object.assign(seen, { atMs: systemClock.nowMs(), value }),
    (error: unknown) => Object.assign(seen, { atMs: systemClock.nowMs(), error }),
  )
  return seen
}

function only({ models }: Device): PacedModel {
  const [model] = models
  if (model === undefined) throw new Error('no model')
  return model
}

describe('a step', () => {
  test('ends when the catalogued device would end it, with the result of the real one', async () => {
    const paced = await device()
    const beganMs = systemClock.nowMs()
    const step = settledAt(only(paced).step([SEQUENCE]))
    await vi.advanceTimersByTimeAsync(STEP_MS - 1)
    expect(step.atMs).toBeUndefined()
    await vi.advanceTimersByTimeAsync(1)
    expect(step.atMs).toBe(beganMs + STEP_MS)
    expect(step.value?.elapsedUs).toBe(STEP_MS * 1_000)
    expect(step.value?.cancelled).toBe(false)
    const plain = await new FakeDriver({ layers: LAYERS }).loadModel({
      model: FAKE_MODEL,
      numerics: EXACT,
      kvBlocksMax: 8,
    })
    const unpaced = settledAt(plain.step([SEQUENCE]))
    await vi.advanceTimersByTimeAsync(STEP_MS)
    expect(step.value?.logits).toEqual(unpaced.value?.logits)
    expect(step.value?.logits).toHaveLength(FAKE_VOCABULARY)
    expect(paced.counts).toEqual({ steps: 1, lateSteps: 0, lateMs: 0, busyMs: STEP_MS })
  })

  test('reports its layers evenly over its time', async () => {
    const paced = await device()
    const beganMs = systemClock.nowMs()
    const layers: [number, number][] = []
    const step = settledAt(
      only(paced).step([SEQUENCE], (layer) => layers.push([layer, systemClock.nowMs() - beganMs])),
    )
    await vi.advanceTimersByTimeAsync(STEP_MS)
    expect(layers).toEqual([
      [0, 5],
      [1, 10],
      [2, 15],
      [3, 20],
    ])
    expect(step.atMs).toBe(beganMs + STEP_MS)
  })

  test('that is computed more slowly ends when it is computed, and is counted as late', async () => {
    const paced = await device({ beforeLayer: () => delay(10) })
    const beganMs = systemClock.nowMs()
    const reported: number[] = []
    const step = settledAt(only(paced).step([SEQUENCE], (layer) => reported.push(layer)))
    await vi.advanceTimersByTimeAsync(100)
    expect(step.atMs).toBe(beganMs + LAYERS * 10)
    expect(step.value?.elapsedUs).toBe(LAYERS * 10 * 1_000)
    expect(reported).toEqual([0, 1, 2, 3])
    expect(paced.counts).toEqual({ steps: 1, lateSteps: 1, lateMs: LAYERS * 10 - STEP_MS, busyMs: STEP_MS })
  })

  test('that fails does so at once', async () => {
    const broken = async () => {
      throw new Error('broken')
    }
    const paced = await device({ beforeLayer: broken })
    const beganMs = systemClock.nowMs()
    const step = settledAt(only(paced).step([SEQUENCE], () => {}))
    await vi.advanceTimersByTimeAsync(1)
    expect(step.error).toBeInstanceOf(Error)
    expect(step.atMs).toBeLessThanOrEqual(beganMs + 1)
  })

  test('that is cancelled ends at its next layer', async () => {
    const paced = await device()
    const beganMs = systemClock.nowMs()
    const layers: number[] = []
    const model = only(paced)
    const step = settledAt(model.step([SEQUENCE], (layer) => layers.push(layer)))
    await vi.advanceTimersByTimeAsync(7)
    model.cancelStep()
    await vi.advanceTimersByTimeAsync(STEP_MS)
    expect(step.atMs).toBe(beganMs + 10)
    expect(step.value?.cancelled).toBe(true)
    expect(layers).toEqual([0])
  })
})

describe('steps in a row', () => {
  /** One after another, each begun as the answer to the last one's end. */
  async function run(model: PacedModel, steps: number): Promise<StepResult[]> {
    const results: StepResult[] = []
    for (let step = 0; step < steps; step += 1) results.push(await model.step([SEQUENCE]))
    return results
  }

  test('keep to an absolute schedule, however late timers fire', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 20 }),
        fc.double({ min: 0.1, max: 3, noNaN: true }),
        async (steps, odd) => {
          const stepMs = 10 + odd
          const paced = await device({ stepMs })
          const beganMs = systemClock.nowMs()
          const done = settledAt(run(only(paced), steps))
          await vi.advanceTimersByTimeAsync(steps * stepMs + 4)
          // Timers fire at whole milliseconds; what is rounded up in one step is not added to the next.
          expect(done.atMs).toBeGreaterThan(beganMs + steps * stepMs - 0.001)
          expect(done.atMs).toBeLessThan(beganMs + steps * stepMs + 3)
          expect(done.value?.map(({ elapsedUs }) => Math.round(elapsedUs))).toEqual(
            Array.from({ length: steps }, () => Math.round(stepMs * 1_000)),
          )
        },
      ),
      { numRuns: 20 },
    )
  })

  test('begin anew after a pause', async () => {
    const paced = await device()
    const beganMs = systemClock.nowMs()
    await Promise.all([only(paced).step([SEQUENCE]), vi.advanceTimersByTimeAsync(STEP_MS)])
    await vi.advanceTimersByTimeAsync(35)
    const step = settledAt(only(paced).step([SEQUENCE]))
    await vi.advanceTimersByTimeAsync(STEP_MS)
    expect(step.atMs).toBe(beganMs + STEP_MS + 35 + STEP_MS)
  })

  test('of two models take turns', async () => {
    const paced = await device({ models: 2 })
    const beganMs = systemClock.nowMs()
    const steps = paced.models.map((model) => settledAt(model.step([SEQUENCE])))
    await vi.advanceTimersByTimeAsync(3 * STEP_MS)
    expect(steps.map(({ atMs }) => atMs)).toEqual([beganMs + STEP_MS, beganMs + 2 * STEP_MS])
  })

  test('one that waits for its turn takes no time once it is cancelled', async () => {
    const paced = await device({ models: 2 })
    const [first, second] = paced.models
    const beganMs = systemClock.nowMs()
    const running = settledAt(first?.step([SEQUENCE]) ?? Promise.reject(new Error('no model')))
    const waiting = settledAt(second?.step([SEQUENCE]) ?? Promise.reject(new Error('no model')))
    await vi.advanceTimersByTimeAsync(5)
    second?.cancelStep()
    await vi.advanceTimersByTimeAsync(STEP_MS)
    expect(running.atMs).toBe(beganMs + STEP_MS)
    expect(waiting.value).toMatchObject({ cancelled: true, elapsedUs: 0 })
  })
})
