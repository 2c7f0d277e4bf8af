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
import { holdsBlocks, modelOn, type ProfileName, profilesFor, type Role } from './facts.js'
import { KvDirectory } from './kv-directory.js'
import { KvFollower, SNAPSHOT_TIMEOUT_MS } from './kv-follower.js'
import { learnFrom, tellEfficiencies } from './learning.js'
import type { CoordinatorAction, CoordinatorEvent } from './protocol.js'
import { type RequestLimits, RequestMachine } from './request-machine.js'
import { StageCosts } from './stage-costs.js'

export const TICK_MS = 100

export class CoordinatorCore {
  readonly view = new ClusterView()
  readonly directory = new KvDirectory()
  readonly follower = new KvFollower(this.directory)
  readonly #costs = new CostModel()
  readonly #stageCosts = new StageCosts()
  readonly #requests: RequestMachine
  #actions: CoordinatorAction[] = []
  #nowMs = Number.NEGATIVE_INFINITY

  constructor(limits: RequestLimits) {
    const cluster = {
      view: this.view,
      costs: this.#costs,
      stageCosts: this.#stageCosts,
      directory: this.directory,
    }
    this.#requests = new RequestMachine(cluster, limits, (action) => {
      this.#actions.push(action)
    })
  }

  get queuedCount(): number {
    return this.#requests.queuedCount
  }

  get activeCount(): number {
    return this.#requests.activeCount
  }

  /** Whether some devices that are ready can take a request of this model and profile from prompt to last token. */
  isServed(modelDigest: string, profile: ProfileName, nowMs: number): boolean {
    return profilesFor(profile).some((one) => this.#isServedIn(one, modelDigest, nowMs))
  }

  #isServedIn(profile: ProfileName, modelDigest: string, nowMs: number): boolean {
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
    if (!isOfRequest(event)) this.#askForSnapshots(this.#nowMs)
    if (mayFreeAPlace(event) || this.#requests.hasFreedTurn) {
      this.#requests.placeWaiting(this.#nowMs, event.type === 'tick')
    }
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
        if (event.connected) this.follower.healAll(nowMs)
        this.#age(nowMs)
        break
      case 'advertised': {
        const ended = this.view.advertise(event.device, nowMs)
        if (ended) {
          this.#requests.deviceLost(ended, nowMs)
          this.#actions.push({ type: 'forget-device', device: ended })
        }
        const known = this.view.device(event.device.deviceId)
        if (known) {
          tellEfficiencies(known, this.#costs)
          if (holdsBlocks(known.facts)) this.follower.begin(known.ref, nowMs)
          this.directory.label(known.ref.deviceId, known.row)
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
        this.follower.reported(event.load, nowMs)
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
        learnFrom(event.record, { view: this.view, costs: this.#costs, stageCosts: this.#stageCosts })
        break
      case 'kv':
        this.follower.change(event.change, nowMs)
        break
      case 'kv-snapshot':
        this.follower.snapshot(event.device, event.snapshot, nowMs)
        break
      case 'kv-missed':
        this.follower.missed(event.device, event.hashes, nowMs)
        break
      default:
        this.#requests.on(event, nowMs)
    }
  }

  #askForSnapshots(nowMs: number): void {
    const isReachable = (deviceId: string): boolean => this.view.state(deviceId, nowMs) !== 'lost'
    for (const device of this.follower.due(nowMs, isReachable)) {
      this.#actions.push({ type: 'snapshot', device, timeoutMs: SNAPSHOT_TIMEOUT_MS })
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
      this.#stageCosts.forget(device.deviceId)
      this.follower.end(device.deviceId)
      this.#actions.push({ type: 'forget-device', device })
    }
  }
}

/** What the cluster is made of does not change by it. */
function isOfRequest(event: CoordinatorEvent): boolean {
  return 'requestId' in event || event.type === 'completed'
}

/** Progress of calls frees nothing that anyone waits for, and there is an event for every few tokens. */
function mayFreeAPlace(event: CoordinatorEvent): boolean {
  switch (event.type) {
    case 'tokens':
    case 'reserved':
    case 'prefill-admitted':
    case 'decode-started':
    case 'completed':
    case 'kv':
    case 'kv-snapshot':
    case 'kv-missed':
      return false
    default:
      return true
  }
}
