/**
 * The coordinator's decisions: `step(event, nowMs)` returns what the shell must do.
 *
 * Deterministic: the same events at the same times give the same actions, so what
 * wins in a study is what serves, and any fault schedule replays. No clock, random
 * source or I/O; time comes in with events and never runs backwards. Send a `tick`
 * every 100 ms.
 */
import { CHECK_TIMEOUT_MS, ClusterView } from './cluster-view.js'
import { CostModel } from './cost-model.js'
import { modelOn, type ProfileName, type Role } from './facts.js'
import type { CoordinatorAction, CoordinatorEvent } from './protocol.js'
import { type RequestLimits, RequestMachine } from './request-machine.js'

export const TICK_MS = 100

export class CoordinatorCore {
  readonly view = new ClusterView()
  readonly #costs = new CostModel()
  readonly #requests: RequestMachine
  #actions: CoordinatorAction[] = []
  #nowMs = Number.NEGATIVE_INFINITY

  constructor(limits: RequestLimits) {
    this.#requests = new RequestMachine(this.view, this.#costs, limits, (action) => {
      this.#actions.push(action)
    })
  }

  get queuedCount(): number {
    return this.#requests.queuedCount
  }

  get activeCount(): number {
    return this.#requests.activeCount
  }

  /** Whether some devices that are ready can take a request of this model from prompt to last token. */
  isServed(modelDigest: string, profile: ProfileName, nowMs: number): boolean {
    const isAble = (role: Role): boolean =>
      [...this.view.devices()].some(
        ({ facts }) =>
          facts.capabilities.includes(role) &&
          modelOn(facts, modelDigest, profile) !== undefined &&
          this.view.state(facts.deviceId, nowMs) === 'ready',
      )
    return isAble('prefill') && isAble('decode')
  }

  step(event: CoordinatorEvent, nowMs: number): readonly CoordinatorAction[] {
    this.#nowMs = Math.max(this.#nowMs, nowMs)
    this.#actions = []
    this.#take(event, this.#nowMs)
    if (mayFreeAPlace(event)) this.#requests.placeWaiting(this.#nowMs)
    return this.#actions
  }

  #take(event: CoordinatorEvent, nowMs: number): void {
    switch (event.type) {
      case 'tick':
        this.#age(nowMs)
        this.#requests.expire(nowMs)
        break
      case 'bus':
        this.view.setBusConnected(event.connected)
        this.#age(nowMs)
        break
      case 'advertised': {
        const ended = this.view.advertise(event.device, nowMs)
        if (ended) {
          this.#requests.deviceLost(ended, nowMs)
          this.#actions.push({ type: 'forget-device', device: ended })
        }
        // One that is new is asked at once, and is of use before its first report.
        this.#age(nowMs)
        break
      }
      case 'withdrawn':
        this.view.withdraw(event.deviceId)
        break
      case 'load':
        this.view.report(event.load, nowMs)
        break
      case 'health':
        this.view.checked(event.device, event.ok, nowMs)
        break
      case 'submit':
        this.#requests.submit(event, nowMs)
        break
      case 'cancel':
        this.#requests.cancel(event.requestId)
        break
      case 'completed':
        this.#costs.observe(event.record, (deviceId) => this.view.device(deviceId)?.facts)
        break
      default:
        this.#requests.on(event, nowMs)
    }
  }

  #age(nowMs: number): void {
    const { checks, lost, forgotten } = this.view.age(nowMs)
    for (const device of checks) {
      this.#actions.push({ type: 'check-health', device, timeoutMs: CHECK_TIMEOUT_MS })
    }
    for (const device of lost) this.#requests.deviceLost(device, nowMs)
    for (const device of forgotten) {
      this.#costs.forget(device.deviceId)
      this.#actions.push({ type: 'forget-device', device })
    }
  }
}

/** Progress of calls frees nothing that anyone waits for, and there is an event for every few tokens. */
function mayFreeAPlace(event: CoordinatorEvent): boolean {
  switch (event.type) {
    case 'tokens':
    case 'prefill-admitted':
    case 'decode-started':
    case 'completed':
      return false
    default:
      return true
  }
}
