/**
 * A model on a paced device: it computes for real, and each step ends when the catalogued device would end it.
 *
 * Invariants:
 * M1 A step takes what the catalogue says, from the start that its schedule gives it (step-schedule.ts). Where this
 *    machine is slower it ends when it is computed, and is counted as late: never hidden, never made up for.
 * M2 Layers are reported evenly over the step's time, each after it was computed: with fewer layers than the catalogued
 *    model has, one stands for several.
 * M3 All else is the inner model's own, in its order (D5): a step is issued to it at once, whoever's turn it is.
 */
import type { DeviceTimes, StepWork } from '@kvasir/catalogue/device-times'
import type {
  DriverModel,
  DriverStats,
  LoadedModelFacts,
  StepResult,
  StepSequence,
} from '@kvasir/engine/device-driver'
import type { AttentionKernelName, KernelInput, KernelOutput } from '@kvasir/engine/kernels'
import type { Clock } from '@kvasir/runtime/clock'
import { type Deferred, deferred, delay } from '@kvasir/runtime/deferred'
import type { StepSchedule, Turn } from './step-schedule.js'

/** What a paced device did, of all its models. */
export interface PacedCounts {
  steps: number
  lateSteps: number
  lateMs: number
  busyMs: number
}

export interface PacedModelParts {
  readonly inner: DriverModel
  readonly times: Pick<DeviceTimes, 'stepMs'>
  /** `movedBlocks`: between the device's memories since the last step. */
  readonly workOf: (sequences: readonly StepSequence[], movedBlocks: number) => StepWork
  readonly schedule: StepSchedule
  readonly counts: PacedCounts
  readonly clock: Clock
}

/** The step that runs. */
interface RunningStep {
  readonly cancelled: AbortController
  /** Layers that are computed. */
  computed: number
  /** Settles at the next layer that is computed. */
  nextLayer: Deferred<void>
}

export class PacedModel implements DriverModel {
  readonly facts: LoadedModelFacts
  private running: RunningStep | undefined
  private movedBlocks = 0

  constructor(private readonly parts: PacedModelParts) {
    this.facts = parts.inner.facts
  }

  async step(sequences: readonly StepSequence[], onLayer?: (layer: number) => void): Promise<StepResult> {
    const { inner, times, workOf, schedule } = this.parts
    const stepMs = times.stepMs(workOf(sequences, this.movedBlocks))
    this.movedBlocks = 0
    const step: RunningStep = { cancelled: new AbortController(), computed: 0, nextLayer: deferred() }
    this.running = step
    const turn = schedule.issue()
    const computing = inner.step(sequences, onLayer && ((layer) => computedLayer(step, layer)))
    const computed = computing.then(
      () => this.parts.clock.nowMs(),
      () => {
        // Nobody waits for the time of a step that failed.
        step.cancelled.abort()
        return this.parts.clock.nowMs()
      },
    )
    try {
      return await this.paced(step, turn, stepMs, computing, computed, onLayer)
    } catch (error) {
      turn.end(this.parts.clock.nowMs())
      throw error
    } finally {
      if (this.running === step) this.running = undefined
    }
  }

  private async paced(
    step: RunningStep,
    turn: Turn,
    stepMs: number,
    computing: Promise<StepResult>,
    computed: Promise<number>,
    onLayer: ((layer: number) => void) | undefined,
  ): Promise<StepResult> {
    const { clock, counts } = this.parts
    const { signal } = step.cancelled
    const startMs = await Promise.race([turn.startMs, aborted(signal).then(() => undefined)])
    if (startMs === undefined) {
      // It waited for another model's step: it ends with that one and took no time.
      const result = await computing
      turn.end(await turn.startMs)
      return { ...result, cancelled: true, elapsedUs: 0 }
    }
    const endMs = startMs + stepMs
    if (onLayer !== undefined) await this.reportLayers(step, startMs, stepMs, computed, onLayer)
    await this.until(endMs, signal)
    const result = await computing
    const computedMs = await computed
    const { layers } = this.facts
    const layerMs = stepMs / layers
    // A step that is cancelled ends at its next layer, on the device as here.
    const ranLayers = Math.ceil((clock.nowMs() - startMs) / layerMs)
    const dueMs = signal.aborted ? Math.min(endMs, startMs + ranLayers * layerMs) : endMs
    await this.until(dueMs)
    const atMs = Math.max(dueMs, computedMs)
    counts.steps += 1
    counts.busyMs += dueMs - startMs
    if (computedMs > dueMs && !signal.aborted) {
      counts.lateSteps += 1
      counts.lateMs += computedMs - dueMs
    }
    turn.end(atMs)
    return { ...result, cancelled: result.cancelled || signal.aborted, elapsedUs: (atMs - startMs) * 1_000 }
  }

  private async reportLayers(
    step: RunningStep,
    startMs: number,
    stepMs: number,
    computed: Promise<number>,
    onLayer: (layer: number) => void,
  ): Promise<void> {
    const { layers } = this.facts
    const { signal } = step.cancelled
    let isOver = false
    void computed.then(() => {
      isOver = true
      step.nextLayer.resolve()
    })
    for (let layer = 0; layer < layers; layer += 1) {
      await this.until(startMs + ((layer + 1) / layers) * stepMs, signal)
      while (step.computed <= layer && !isOver) await step.nextLayer.promise
      // One that was cancelled or has failed computed no more.
      if (signal.aborted || step.computed <= layer) return
      onLayer(layer)
    }
  }

  /** Timers count whole milliseconds, and may fire early by one. */
  private async until(atMs: number, signal?: AbortSignal): Promise<void> {
    const { clock } = this.parts
    for (;;) {
      const waitMs = atMs - clock.nowMs()
      if (waitMs <= 0 || signal?.aborted === true) return
      await delay(Math.ceil(waitMs), signal)
    }
  }

  cancelStep(): void {
    this.running?.cancelled.abort()
    this.parts.inner.cancelStep()
  }

  readBlocks(layer: number, blocks: Uint32Array): Promise<Uint8Array> {
    return this.parts.inner.readBlocks(layer, blocks)
  }

  writeBlocks(layer: number, blocks: Uint32Array, data: Uint8Array, owned?: boolean): Promise<void> {
    return this.parts.inner.writeBlocks(layer, blocks, data, owned)
  }

  copyBlocks(from: Uint32Array, to: Uint32Array): Promise<void> {
    this.movedBlocks += from.length
    return this.parts.inner.copyBlocks(from, to)
  }

  readBounds(layer: number, blocks: Uint32Array): Promise<Uint8Array> {
    return this.parts.inner.readBounds(layer, blocks)
  }

  writeBounds(layer: number, blocks: Uint32Array, data: Uint8Array): Promise<void> {
    return this.parts.inner.writeBounds(layer, blocks, data)
  }

  runKernel<Name extends AttentionKernelName>(
    name: Name,
    input: KernelInput<Name>,
  ): Promise<KernelOutput<Name>> {
    return this.parts.inner.runKernel(name, input)
  }

  stats(): Promise<DriverStats> {
    return this.parts.inner.stats()
  }

  unload(): Promise<void> {
    this.running?.cancelled.abort()
    return this.parts.inner.unload()
  }
}

function computedLayer(step: RunningStep, layer: number): void {
  step.computed = Math.max(step.computed, layer + 1)
  const reached = step.nextLayer
  step.nextLayer = deferred()
  reached.resolve()
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
