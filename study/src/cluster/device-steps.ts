/**
 * The steps of one virtual device: when they begin and end, and who hears of it.
 *
 * E1 The next step begins before anybody hears of the last one, as in the real agent.
 * E2 Steps that only decode, `repeatable` of them, run as one event. Whatever happens to the agent meanwhile first ends the
 *    steps that are over by then, so nobody can tell but by counting events.
 */
import type { StepPart } from '@kvasir/agent/core/events'
import { promptShares } from '@kvasir/agent/core/prompt-shares'
import { type DeviceTimes, deviceTimes } from '@kvasir/catalogue/device-times'
import { type KvMemory, runMs, type StepRun, stepRun, stepsIn } from './step-run.js'
import type { VirtualAgent } from './virtual-agent.js'

const NO_SHARES: readonly number[] = []

export class DeviceSteps {
  readonly #agent: VirtualAgent
  readonly #memory: KvMemory
  readonly #times: DeviceTimes
  #running: StepRun | undefined
  /** Bytes that moved between tiers since the last step, which the next one pays for. */
  #movedBytes = 0

  constructor(agent: VirtualAgent, memory: KvMemory) {
    this.#agent = agent
    this.#memory = memory
    this.#times = deviceTimes(agent.planned.model)
  }

  /** Whether a step runs. */
  get isBusy(): boolean {
    return this.#running !== undefined
  }

  moved(bytes: number): void {
    this.#movedBytes += bytes
  }

  run(parts: readonly StepPart[], repeatable: number, startMs: number): void {
    let stepsMax = this.#agent.world.options.coalesce === false ? 1 : repeatable
    for (const { sequence } of parts) {
      stepsMax = Math.min(stepsMax, this.#agent.works.get(sequence)?.samplesLeft ?? 1)
    }
    const step = stepRun(
      parts,
      { startMs, stepsMax, movedBytes: this.#movedBytes },
      this.#times,
      this.#memory,
    )
    this.#movedBytes = 0
    this.#running = step
    for (const { role, sequence, start, count } of parts) {
      if (role === 'prefill')
        this.#agent.works.get(sequence)?.chunkStarts?.(start, count, startMs, step.firstMs)
    }
    this.#agent.world.queue.at(startMs + runMs(step, step.steps), () => this.#endsBy(step))
  }

  /** An event came by which later steps of the run would be others. */
  runLess(steps: number): void {
    const step = this.#running
    if (step === undefined || step.steps <= steps) return
    const shorter = { ...step, steps }
    this.#running = shorter
    this.#agent.world.queue.at(step.startMs + runMs(shorter, steps), () => this.#endsBy(shorter))
  }

  /** Its time is over, unless it ended before. */
  #endsBy(step: StepRun): void {
    if (this.#running !== step || this.#agent.isDead) return
    const { stalledUntilMs } = this.#agent
    // The card computes on, but nobody hears of it.
    if (stalledUntilMs > this.#agent.world.queue.nowMs)
      this.#agent.world.queue.at(stalledUntilMs, () => this.#endsBy(step))
    else this.#end(step, step.steps, this.#agent.world.queue.nowMs)
  }

  /** Ends the steps of a run that are over by now. */
  catchUp(): void {
    const step = this.#running
    if (step === undefined || step.steps === 1) return
    const elapsedMs = this.#agent.world.queue.nowMs - step.startMs
    const over = stepsIn(step, elapsedMs)
    if (over > 0) this.#end(step, over, step.startMs + runMs(step, over))
  }

  #end(step: StepRun, steps: number, atMs: number): void {
    const ms = runMs(step, steps)
    const { counters } = this.#agent.world
    counters.steps += steps
    // Of each step but the last: its end, and for every sequence the message with its token and what the coordinator makes of it.
    counters.eventsMerged += (steps - 1) * (1 + 2 * step.parts.length)
    const { prefillTokens, work } = step
    this.#agent.meter.ran(
      { steps, ms, prefillTokens, decodes: work.decodes.length },
      this.#times.stepWatts(work),
    )
    this.#running = undefined
    const stopped: number[] = []
    const shares = prefillTokens > 0 ? promptShares(step.parts) : NO_SHARES
    let place = 0
    for (const { sequence, role, start, count, wantLogits } of step.parts) {
      const share = shares[place] ?? 0
      place += 1
      const work = this.#agent.works.get(sequence)
      // Before the next chunk begins.
      if (role === 'prefill') work?.chunkEnds?.(start + count, false, ms * share)
      if (wantLogits && work !== undefined && work.samplesLeft <= steps) stopped.push(sequence)
    }
    const actions = this.#agent.step(
      {
        type: 'step-finished',
        cancelled: false,
        stopped,
        failed: [],
        filled: [],
        reads: [],
        elapsedUs: (ms / steps) * 1_000,
        steps,
      },
      atMs,
    )
    for (const action of actions) this.#agent.performFirst(action, atMs)
    const batch = step.parts.length
    for (const { sequence, wantLogits } of step.parts) {
      const work = this.#agent.works.get(sequence)
      if (wantLogits) work?.sampled(steps, batch, ms / steps)
    }
    this.#agent.performRest(actions)
  }

  /** Between two layers the device looks whether its step is still wanted. */
  cancel(): void {
    const step = this.#running
    if (step === undefined) return
    const { queue, plan } = this.#agent.world
    const layerMs = step.firstMs / plan.model.layers
    queue.after(layerMs, () => {
      if (this.#running !== step || this.#agent.isDead) return
      const ms = queue.nowMs - step.startMs
      this.#agent.meter.ran(
        { steps: 1, ms, prefillTokens: step.prefillTokens, decodes: 0 },
        this.#times.stepWatts(step.work),
      )
      this.#running = undefined
      for (const { sequence, role, start } of step.parts) {
        if (role === 'prefill') this.#agent.works.get(sequence)?.chunkEnds?.(start, true, 0)
      }
      const cancelled = {
        cancelled: true,
        stopped: [],
        failed: [],
        filled: [],
        reads: [],
        elapsedUs: ms * 1_000,
      }
      const actions = this.#agent.step({ type: 'step-finished', ...cancelled }, queue.nowMs)
      for (const action of actions) this.#agent.performFirst(action, queue.nowMs)
      this.#agent.performRest(actions)
    })
  }
}
