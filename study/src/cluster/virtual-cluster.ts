/**
 * A whole cluster in virtual time: the two cores that serve, unchanged, driven by discrete events. Device times follow
 * from the catalogue (a roofline with published utilisations), links are shared fairly, memories have capacity and
 * bandwidth, power and price are counted.
 *
 * V1 Deterministic: the same plan, options, requests and faults give the same events at the same times.
 * V2 Requests are taken one after the other as time reaches them, and each has one outcome, so memory depends on what runs
 *    at a time and not on how much there is to run.
 */
import { InternalError } from '@kvasir/runtime/errors'
import type { ClusterPlan, PlannedDevice, PlannedMachine } from './cluster-plan.js'
import { deviceSample, deviceUsage, hostUsage, tierSums } from './cluster-usage.js'
import { DeviceMeter } from './device-meter.js'
import { REPORT_MS } from './device-news.js'
import { EventQueue } from './event-queue.js'
import { Network } from './network.js'
import type { Party } from './party.js'
import type { RequestOutcome, RunSummary, VirtualRequest } from './request.js'
import { SharedLink, SharedLinks } from './shared-links.js'
import { VirtualAgent } from './virtual-agent.js'
import { VirtualCoordinator } from './virtual-coordinator.js'
import { VirtualHost } from './virtual-host.js'
import type { ClusterOptions, KvSource, World } from './world.js'

interface DevicePlace {
  readonly machine: PlannedMachine
  readonly planned: PlannedDevice
  readonly up: SharedLink
  readonly down: SharedLink
  readonly meter: DeviceMeter
  life: VirtualAgent
}

interface MachinePlace {
  readonly planned: PlannedMachine
  readonly up: SharedLink
  readonly down: SharedLink
  host: VirtualHost | undefined
}

/** A run that cannot end is a bug, not a study. */
const IDLE_MS_MAX = 3_600_000

export class VirtualCluster {
  readonly #options: ClusterOptions
  readonly #queue = new EventQueue()
  readonly #network: Network
  readonly #links = new SharedLinks(this.#queue)
  readonly #counters = { coreEvents: 0, steps: 0, eventsMerged: 0 }
  readonly #machines = new Map<string, MachinePlace>()
  readonly #devices = new Map<string, DevicePlace>()
  readonly #coordinator: VirtualCoordinator
  readonly #world: World
  #incarnations = 0n
  #submitted = 0
  #arrivals: Iterator<VirtualRequest> | undefined
  #lastEndMs = 0
  #hasRun = false

  constructor(plan: ClusterPlan, options: ClusterOptions) {
    this.#options = options
    this.#network = new Network(this.#queue, plan.messageMs, options.transit)
    this.#world = {
      plan,
      options,
      queue: this.#queue,
      network: this.#network,
      links: this.#links,
      counters: this.#counters,
      coordinator: () => this.#coordinator,
      device: (deviceId) => this.#source(deviceId),
      path: (from, to) => this.#path(from, to),
    }
    this.#coordinator = new VirtualCoordinator(this.#world, (outcome) => this.#ended(outcome))
    this.#coordinator.begin()
    for (const machine of plan.machines) this.#addMachine(machine)
    if (options.sample) this.#sampleLater(options.sample.everyMs)
  }

  get nowMs(): number {
    return this.#queue.nowMs
  }

  /** Device ids in the order of the plan; hosts that keep KV after their machine's devices. */
  get deviceIds(): readonly string[] {
    const hosts = [...this.#machines.values()].flatMap(({ host }) => (host ? [host.id] : []))
    return [...this.#devices.keys(), ...hosts]
  }

  get coordinator(): VirtualCoordinator {
    return this.#coordinator
  }

  /** The life of a device that runs now, or ran last. */
  agent(deviceId: string): VirtualAgent | undefined {
    return this.#devices.get(deviceId)?.life
  }

  at(atMs: number, does: () => void): void {
    this.#queue.at(atMs, does)
  }

  /**
   * Plays until every request has ended, or to `untilMs`. `requests` in order of arrival.
   *
   * @throws InternalError where it has played already
   */
  run(requests: Iterable<VirtualRequest>, untilMs = Number.POSITIVE_INFINITY): RunSummary {
    if (this.#hasRun)
      throw new InternalError('A virtual cluster plays once; make another one for another run.')
    this.#hasRun = true
    this.#arrivals = requests[Symbol.iterator]()
    this.#nextArrival()
    while (!this.#isOver()) {
      if (!this.#queue.runNext(untilMs)) break
      if (this.nowMs - this.#lastEndMs > IDLE_MS_MAX && this.#coordinator.liveCount > 0) break
    }
    for (const outcome of this.#coordinator.outcomesOfUnfinished()) this.#options.onOutcome(outcome)
    return this.#summary()
  }

  /** The agent's process dies. */
  crash(deviceId: string): void {
    const party = this.#party(deviceId)
    if (!party || party.isDead) return
    if (party instanceof VirtualAgent) party.settle()
    this.#network.died(party)
  }

  /** It begins anew, empty; what still ran dies. */
  restart(deviceId: string): void {
    this.crash(deviceId)
    const place = this.#devices.get(deviceId)
    if (place) {
      place.meter.keep(tierSums(place.life))
      place.life = this.#newAgent(place.machine, place)
      place.life.begin(0)
    }
    const machine = [...this.#machines.values()].find(({ host }) => host?.id === deviceId)
    if (machine) {
      machine.host = this.#newHost(machine.planned)
      machine.host?.begin(0)
    }
  }

  /** The agent's process stands still for so long. */
  stall(deviceId: string, forMs: number): void {
    const party = this.#party(deviceId)
    if (!party || party.isDead) return
    if (party instanceof VirtualAgent) party.settle()
    this.#network.stalled(party, this.nowMs + forMs)
  }

  /** Nothing passes between the two, or from a to b. */
  partition(a: string, b: string, which: 'both' | 'a-to-b'): void {
    const parties = [this.#party(a), this.#party(b)].filter((party) => party !== undefined)
    for (const party of parties) if (party instanceof VirtualAgent) party.settle()
    this.#network.block(a, b, parties)
    if (which === 'both') this.#network.block(b, a, parties)
  }

  heal(a: string, b: string): void {
    this.#network.unblock(a, b)
    this.#network.unblock(b, a)
  }

  /** Its link carries so many times what it does by the plan. */
  slowLink(deviceId: string, factor: number): void {
    const place = this.#devices.get(deviceId)
    if (!place) return
    const rate = (place.planned.link.bytesPerSecond / 1_000) * factor
    this.#links.changed(place.up, rate)
    this.#links.changed(place.down, rate)
  }

  /** The coordinator's connection to the bus. */
  busDown(): void {
    this.#coordinator.bus(false)
  }

  busUp(): void {
    this.#coordinator.bus(true)
  }

  #isOver(): boolean {
    const isDone = this.#arrivals === undefined && this.#coordinator.liveCount === 0
    return isDone && this.nowMs >= this.#lastEndMs + (this.#options.lingerMs ?? 0)
  }

  #nextArrival(): void {
    const next = this.#arrivals?.next()
    if (next === undefined || next.done === true) {
      this.#arrivals = undefined
      return
    }
    const request = next.value
    this.#queue.at(request.arrivalMs, () => {
      this.#submitted += 1
      this.#coordinator.submit(request)
      this.#nextArrival()
    })
  }

  #ended(outcome: RequestOutcome): void {
    this.#lastEndMs = this.nowMs
    this.#options.onOutcome(outcome)
  }

  #addMachine(planned: PlannedMachine): void {
    const rate = planned.network.bytesPerSecond / 1_000
    const place: MachinePlace = {
      planned,
      up: new SharedLink(`${planned.id} up`, rate),
      down: new SharedLink(`${planned.id} down`, rate),
      host: undefined,
    }
    this.#machines.set(planned.id, place)
    place.host = this.#newHost(planned)
    place.host?.begin(this.#staggerMs())
    for (const device of planned.devices) {
      const links = {
        up: new SharedLink(`${device.deviceId} up`, device.link.bytesPerSecond / 1_000),
        down: new SharedLink(`${device.deviceId} down`, device.link.bytesPerSecond / 1_000),
      }
      const parts = { machine: planned, planned: device, ...links, meter: new DeviceMeter() }
      const life = this.#newAgent(planned, parts)
      this.#devices.set(device.deviceId, { ...parts, life })
      life.begin(this.#staggerMs())
    }
  }

  /** Agents do not all report at the same moment. */
  #staggerMs(): number {
    return (this.#devices.size * 37) % REPORT_MS
  }

  #newAgent(machine: PlannedMachine, place: Omit<DevicePlace, 'life'>): VirtualAgent {
    this.#incarnations += 1n
    const host = () => this.#machines.get(machine.id)?.host
    const { planned, meter, up, down } = place
    return new VirtualAgent(this.#world, planned, machine.id, this.#incarnations, meter, host, { up, down })
  }

  #newHost(planned: PlannedMachine): VirtualHost | undefined {
    if (planned.hostTiers.length === 0) return undefined
    this.#incarnations += 1n
    return new VirtualHost(this.#world, planned, this.#incarnations)
  }

  #source(deviceId: string): KvSource | undefined {
    const life = this.#devices.get(deviceId)?.life
    if (life) return life
    for (const { host } of this.#machines.values()) if (host?.id === deviceId) return host
    return undefined
  }

  #party(id: string): Party | undefined {
    return id === this.#coordinator.id ? this.#coordinator : this.#source(id)
  }

  #path(from: KvSource, to: KvSource): { readonly links: readonly SharedLink[]; readonly latencyMs: number } {
    const ends = [...from.uplinks, ...to.downlinks]
    const latencyMs = from.latencyMs + to.latencyMs
    const [a, b] = [this.#machines.get(from.machine), this.#machines.get(to.machine)]
    if (a === b || !a || !b) return { links: ends, latencyMs }
    const wayMs = (a.planned.network.latencyUs + b.planned.network.latencyUs) / 1_000
    return { links: [...ends, a.up, b.down], latencyMs: latencyMs + wayMs }
  }

  #sampleLater(everyMs: number): void {
    this.#queue.after(everyMs, () => {
      this.#sampleLater(everyMs)
      const { core } = this.#coordinator
      this.#options.sample?.take({
        atMs: this.nowMs,
        queued: core.queuedCount,
        active: core.activeCount,
        devices: [...this.#devices.values()].map(({ life }) => deviceSample(life)),
      })
    })
  }

  #summary(): RunSummary {
    const { coreEvents, steps, eventsMerged } = this.#counters
    const eventsHandled = coreEvents + this.#links.events + this.#network.messages
    const devices = [...this.#devices.values()].map(({ life, meter }) => deviceUsage(life, meter, this.nowMs))
    const hosts = [...this.#machines.values()].flatMap(({ host }) =>
      host ? [hostUsage(host, this.nowMs)] : [],
    )
    return {
      virtualMs: this.nowMs,
      devices: [...devices, ...hosts],
      events: eventsHandled + eventsMerged,
      eventsHandled,
      steps,
    }
  }
}
