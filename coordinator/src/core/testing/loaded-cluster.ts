/**
 * A cluster under load in virtual time: devices that prefill one prompt after the other, devices that decode in slots,
 * and clients that ask whether or not anyone answers. Nothing fails; what is looked at is who is served when. Everything
 * follows from the seed.
 *
 * Devices may be slower or faster than the core's cost model takes them to be, and the core is told nothing of it but
 * when tokens come.
 */
import { NO_HASHES } from '../block-hashes.js'
import { CoordinatorCore, TICK_MS } from '../coordinator-core.js'
import { CostModel } from '../cost-model.js'
import type { DeviceFacts } from '../facts.js'
import type { CoordinatorAction, CoordinatorEvent } from '../protocol.js'
import type { RequestLimits } from '../request-limits.js'
import { TEST_MODEL_DIGEST, testDevice, testLoad } from './devices.js'

export interface LoadedRequest {
  readonly promptTokens: number
  readonly answerTokens: number
  readonly tenant?: string
  readonly priority?: number
  readonly ttftDeadlineMs?: number
}

export interface LoadedRun {
  readonly seed: number
  readonly limits?: Partial<RequestLimits>
  /** Devices that prefer prefill, and that prefer decode with so many slots each. */
  readonly prefillers: number
  readonly decoders: number
  readonly decodeSlots: number
  /** What devices take, of what the cost model predicts. */
  readonly slowness: number
  /** From then on they take what is predicted. */
  readonly slowUntilMs?: number
  /** For so long requests come, `perSecond` of them, in a Poisson process. */
  readonly forMs: number
  readonly perSecond: number
  /** The next request; `random` from 0 to 1. */
  readonly request: (random: () => number) => LoadedRequest
}

export interface LoadedOutcome extends LoadedRequest {
  readonly arrivalMs: number
  firstTokenMs: number | null
  placedMs: number | null
  end: 'finish' | 'shed' | 'overloaded' | 'other' | null
  retryAfterMs: number
}

/** A decode step of every device. */
const STEP_MS = 5
const REPORT_MS = 500

export class LoadedCluster {
  readonly outcomes: LoadedOutcome[] = []
  readonly core: CoordinatorCore
  readonly #run: LoadedRun
  readonly #devices: DeviceFacts[]
  readonly #agenda: { atMs: number; order: number; does: () => void }[] = []
  /** When a device has done the prompts that it was given. */
  readonly #freeAtMs = new Map<string, number>()
  #order = 0
  #nowMs = 0
  #random: number

  constructor(run: LoadedRun) {
    this.#run = run
    this.#random = run.seed >>> 0 || 1
    const { prefillers, decoders, decodeSlots } = run
    this.#devices = [
      ...Array.from({ length: prefillers }, (_, index) => {
        return testDevice({ deviceId: `gpu-${index}`, ...FAST, capabilities: ['prefill', 'decode'] })
      }),
      ...Array.from({ length: decoders }, (_, index) => {
        const capabilities = ['decode', 'prefill'] as const
        return testDevice({ deviceId: `fpga-${index}`, ...SLOW, decodeSlots, capabilities })
      }),
    ]
    this.core = new CoordinatorCore({
      ...{ protocolVersion: 1, protocolVersionMin: 1, queuedMax: 10_000 },
      ...{ placementDeadlineMs: 10_000, requestDeadlineMs: 600_000 },
      policy: { decodeAssist: false },
      ...run.limits,
    })
  }

  /** Requests that a cluster of this size can serve, a second. */
  static sustainablePerSecond(run: LoadedRun, mean: LoadedRequest): number {
    const [gpu] = new LoadedCluster(run).#devices
    if (!gpu) return 0
    const prefills = (1_000 * run.prefillers) / (prefillMs(gpu, mean.promptTokens) * run.slowness)
    const answers = (1_000 * run.decoders * run.decodeSlots) / (mean.answerTokens * STEP_MS * run.slowness)
    return Math.min(prefills, answers)
  }

  play(): readonly LoadedOutcome[] {
    for (const device of this.#devices) {
      this.#step({ type: 'advertised', device })
      this.#report(device, 1)
    }
    this.#arrive()
    this.#at(TICK_MS, () => this.#tick())
    for (let next = this.#next(); next; next = this.#next()) {
      this.#nowMs = next.atMs
      next.does()
    }
    return this.outcomes
  }

  #tick(): void {
    this.#step({ type: 'tick' })
    const isOver = this.#nowMs > this.#run.forMs && this.outcomes.every(({ end }) => end !== null)
    if (!isOver) this.#at(this.#nowMs + TICK_MS, () => this.#tick())
  }

  #report(device: DeviceFacts, sequence: number): void {
    if (this.#nowMs > this.#run.forMs && this.outcomes.every(({ end }) => end !== null)) return
    // What others use, which is nothing: the core knows what it asked for itself.
    this.#step({ type: 'load', load: testLoad(device, sequence) })
    this.#at(this.#nowMs + REPORT_MS, () => this.#report(device, sequence + 1))
  }

  #arrive(): void {
    const gapMs = (-Math.log(1 - this.#next01()) * 1_000) / this.#run.perSecond
    const atMs = this.#nowMs + gapMs
    if (atMs > this.#run.forMs) return
    this.#at(atMs, () => {
      const asked = this.#run.request(() => this.#next01())
      const requestId = String(this.outcomes.length)
      this.outcomes.push({
        ...asked,
        ...{ arrivalMs: this.#nowMs, firstTokenMs: null, placedMs: null, end: null, retryAfterMs: 0 },
      })
      const { promptTokens, answerTokens, ...rest } = asked
      const model = { modelDigest: TEST_MODEL_DIGEST, profile: 'exact' as const, blockHashes: NO_HASHES }
      this.#step({ type: 'submit', requestId, ...model, promptTokens, maxTokens: answerTokens, ...rest })
      this.#arrive()
    })
  }

  #step(event: CoordinatorEvent): void {
    for (const action of this.core.step(event, this.#nowMs)) this.#do(action)
  }

  #do(action: CoordinatorAction): void {
    if (!('requestId' in action)) return
    const { requestId } = action
    const outcome = this.outcomes[Number(requestId)]
    if (!outcome) return
    switch (action.type) {
      case 'reserve':
        outcome.placedMs ??= this.#nowMs
        this.#at(this.#nowMs, () => this.#step({ type: 'reserved', requestId, epoch: action.epoch }))
        break
      case 'run':
        this.#serve(requestId, action.epoch, outcome, action.prefill?.deviceId ?? action.decode.deviceId)
        break
      case 'emit':
        outcome.firstTokenMs ??= this.#nowMs
        break
      case 'finish':
        outcome.end = 'finish'
        break
      case 'fail':
        outcome.end = action.code === 'shed' || action.code === 'overloaded' ? action.code : 'other'
        outcome.retryAfterMs = action.retryAfterMs
    }
  }

  #serve(requestId: string, epoch: number, outcome: LoadedOutcome, deviceId: string): void {
    const device = this.#devices.find((one) => one.deviceId === deviceId)
    if (!device) return
    const of = { requestId, epoch }
    const beginMs = Math.max(this.#nowMs, this.#freeAtMs.get(deviceId) ?? 0)
    const doneMs = beginMs + prefillMs(device, outcome.promptTokens) * this.#slowness
    this.#freeAtMs.set(deviceId, doneMs)
    const { answerTokens } = outcome
    this.#at(doneMs, () => {
      this.#step({ type: 'prefill-finished', stopped: false, ...of })
      this.#step({ type: 'kv-sent', ...of })
      if (outcome.end !== null) return
      this.#step({ type: 'decode-started', ...of })
      this.#at(this.#nowMs + (answerTokens - 1) * STEP_MS * this.#slowness, () => {
        this.#step({ type: 'tokens', firstIndex: 1, count: answerTokens - 1, ...of })
        this.#step({ type: 'decode-finished', reason: 'length', ...of })
      })
    })
  }

  get #slowness(): number {
    const { slowness, slowUntilMs = Number.POSITIVE_INFINITY } = this.#run
    return this.#nowMs < slowUntilMs ? slowness : 1
  }

  #at(atMs: number, does: () => void): void {
    this.#order += 1
    const item = { atMs, order: this.#order, does }
    let at = this.#agenda.length
    while (at > 0 && (this.#agenda[at - 1]?.atMs ?? 0) <= atMs) at -= 1
    this.#agenda.splice(at, 0, item)
  }

  #next() {
    return this.#agenda.pop()
  }

  #next01(): number {
    // Numerical Recipes' generator: enough for arrivals.
    this.#random = (Math.imul(this.#random, 1_664_525) + 1_013_904_223) >>> 0
    return this.#random / 2 ** 32
  }
}

const FAST = { opsPerSecond: 1e12, kvTokens: 4_000_000, modelled: true, contextTokensMax: 32_768 }
const SLOW = { opsPerSecond: 20e9, kvTokens: 4_000_000, modelled: true, contextTokensMax: 32_768 }

/** As a cost model that has learned nothing predicts it. */
function prefillMs(device: DeviceFacts, tokens: number): number {
  const [model] = device.models
  return model ? COSTS.prefillMs(device, model, tokens) : 0
}
const COSTS = new CostModel()
