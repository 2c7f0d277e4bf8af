/**
 * A cluster in virtual time for property tests: devices that own their slots, calls
 * with random delays, and a schedule of faults. Everything follows from the schedule
 * and the seed, so a failing case replays.
 *
 * It also checks, as it goes, what must hold of the core's actions; a breach throws.
 */
import type { AttentionPlan } from '../attention-plan.js'
import type { AttentionWish } from '../attention-wish.js'
import { REPORT_SILENCE_MAX_MS } from '../cluster-view.js'
import { CoordinatorCore, TICK_MS } from '../coordinator-core.js'
import type { Decision } from '../decision.js'
import { type DeviceFacts, type DeviceRef, modelOn, type ProfileName } from '../facts.js'
import type { CoordinatorAction, CoordinatorEvent, Fault } from '../protocol.js'
import { TEST_MODEL_DIGEST, TEST_VARIANT, testDevice, testLoad } from './devices.js'
import { hashesOf } from './named-hashes.js'

export const SIMULATED_REQUEST_DEADLINE_MS = 20_000
const CHECKED_SILENCE_MAX_MS = 1_700
/** A device attends for so many sequences, since it refuses by memory, which is not simulated. */
const ATTENDS_MAX = 2

export interface SimulatedFault {
  readonly atMs: number
  readonly device: number
  readonly kind:
    | 'kill'
    | 'restart'
    | 'hang'
    | 'stick'
    | 'resume'
    | 'drain'
    | 'unload'
    | 'load'
    | 'bus-down'
    | 'bus-up'
}

export interface SimulatedRequest {
  readonly atMs: number
  readonly promptTokens: number
  readonly maxTokens: number
  /** Left by its client after so long; null: stays. */
  readonly leavesAfterMs: number | null
  readonly attention?: AttentionWish | undefined
  /** Default exact. */
  readonly profile?: ProfileName | undefined
}

export interface SimulatedRun {
  readonly seed: number
  readonly faults: readonly SimulatedFault[]
  readonly requests: readonly SimulatedRequest[]
}

interface SimulatedDevice {
  facts: DeviceFacts
  /** All that it can load. */
  readonly models: DeviceFacts['models']
  life: number
  /** A stuck one reports and answers checks, but no call ever comes back. */
  state: 'up' | 'stuck' | 'hung' | 'dead'
  draining: boolean
  reports: number
  /** Reservations by `request.epoch`, and of which of its models. */
  readonly leases: Map<string, ProfileName>
  /** Reservations for pages of sequences that other devices decode, alike. */
  readonly attends: Set<string>
  readonly blocks: Set<string>
  kvEvents: number
  heardAtMs: number
  heardBy: 'report' | 'check'
}

interface Seen {
  readonly submittedAtMs: number
  readonly promptTokens: number
  readonly maxTokens: number
  readonly profile: ProfileName
  emitted: number
  end: string | null
  openEpoch: number | null
  /** Of the last reservation. */
  plan: AttentionPlan | null
  /** Method and budget of the calls that once began. */
  settled: string | null
}

export class SimulatedCluster {
  readonly #core = new CoordinatorCore({
    protocolVersion: 1,
    protocolVersionMin: 1,
    queuedMax: 8,
    placementDeadlineMs: 5_000,
    requestDeadlineMs: SIMULATED_REQUEST_DEADLINE_MS,
  })
  readonly #devices: SimulatedDevice[]
  readonly #seen = new Map<string, Seen>()
  readonly #agenda: { atMs: number; does: () => void }[] = []
  #nowMs = 0
  #busConnected = true
  #busDownAtMs = Number.NEGATIVE_INFINITY
  #random: number

  constructor(run: SimulatedRun) {
    this.#random = run.seed >>> 0
    this.#devices = [
      testDevice({
        deviceId: 'gpu-0',
        capabilities: ['prefill', 'decode'],
        decodeSlots: 2,
        models: [
          { profile: 'exact', kvTokens: 2_048 },
          { profile: 'paper', kvTokens: 2_048 },
        ],
      }),
      testDevice({
        deviceId: 'fpga-0',
        capabilities: ['decode', 'prefill', 'attend'],
        decodeSlots: 2,
        models: [
          { profile: 'paper', kvTokens: 1_024, numerics: 'w4a8+kv8' },
          { profile: 'exact', kvTokens: 1_024 },
        ],
      }),
      testDevice({
        deviceId: 'fpga-1',
        capabilities: ['decode', 'prefill', 'attend'],
        decodeSlots: 1,
        kvTokens: 1_024,
      }),
    ].map((facts) => ({
      facts,
      models: facts.models,
      life: 1,
      state: 'up' as const,
      draining: false,
      reports: 0,
      leases: new Map<string, ProfileName>(),
      attends: new Set<string>(),
      blocks: new Set<string>(),
      kvEvents: 0,
      heardAtMs: Number.NEGATIVE_INFINITY,
      heardBy: 'report' as const,
    }))
    for (const device of this.#devices) {
      this.#step({ type: 'advertised', device: device.facts })
      this.#reportLater(device, 0)
    }
    for (const fault of run.faults) this.#at(fault.atMs, () => this.#fault(fault))
    run.requests.forEach((request, index) => {
      this.#at(request.atMs, () => this.#submit(`r${index}`, request))
    })
  }

  /** Plays until every request has ended and a while longer; throws on a breach. */
  play(): void {
    let quietUntilMs = Number.POSITIVE_INFINITY
    let nextTickMs = 0
    for (let turns = 0; turns < 200_000; turns += 1) {
      const next = this.#agenda[0]
      if (next && next.atMs < nextTickMs) {
        this.#agenda.shift()
        this.#nowMs = next.atMs
        next.does()
      } else {
        this.#nowMs = nextTickMs
        nextTickMs += TICK_MS
        this.#step({ type: 'tick' })
      }
      const isOver = this.#nowMs > 5_000 && [...this.#seen.values()].every(({ end }) => end !== null)
      if (!isOver) quietUntilMs = this.#nowMs + 2_000
      if (this.#nowMs > quietUntilMs) {
        this.#checkRest()
        return
      }
      for (const [requestId, seen] of this.#seen) {
        const isLate = this.#nowMs > seen.submittedAtMs + SIMULATED_REQUEST_DEADLINE_MS + TICK_MS
        if (seen.end === null && isLate) throw new Error(`${requestId} hangs.`)
      }
    }
    throw new Error('The simulation does not end.')
  }

  /** How each request ended, in order of submission. */
  ends(): (string | null)[] {
    return [...this.#seen.values()].map(({ end }) => end)
  }

  #submit(requestId: string, request: SimulatedRequest): void {
    const { promptTokens, maxTokens, leavesAfterMs, profile = 'exact' } = request
    this.#seen.set(requestId, {
      submittedAtMs: this.#nowMs,
      promptTokens,
      maxTokens,
      profile,
      emitted: 0,
      end: null,
      openEpoch: null,
      plan: null,
      settled: null,
    })
    const modelDigest = TEST_MODEL_DIGEST
    this.#step({
      type: 'submit',
      requestId,
      modelDigest,
      profile,
      promptTokens,
      maxTokens,
      blockHashes: hashesOf(promptBlocks(promptTokens)),
      attention: request.attention,
    })
    if (leavesAfterMs !== null) this.#later(leavesAfterMs, () => this.#step({ type: 'cancel', requestId }))
  }

  #fault({ kind, device: index }: SimulatedFault): void {
    if (kind === 'bus-down' || kind === 'bus-up') {
      this.#busConnected = kind === 'bus-up'
      if (!this.#busConnected) this.#busDownAtMs = this.#nowMs
      this.#step({ type: 'bus', connected: this.#busConnected })
      return
    }
    const device = this.#devices[index % this.#devices.length]
    if (!device) return
    if (kind === 'kill') {
      device.state = 'dead'
      device.leases.clear()
      device.attends.clear()
    } else if (kind === 'hang' && device.state === 'up') {
      device.state = 'hung'
    } else if (kind === 'stick' && device.state === 'up') {
      device.state = 'stuck'
    } else if (kind === 'resume' && (device.state === 'hung' || device.state === 'stuck')) {
      device.state = 'up'
      this.#reportLater(device, 0)
    } else if (kind === 'drain') {
      device.draining = true
    } else if ((kind === 'unload' || kind === 'load') && device.state === 'up' && this.#busConnected) {
      // What runs with the model ends as it does; new work it gets none.
      const models = kind === 'load' ? device.models : device.models.slice(0, 1)
      device.facts = { ...device.facts, models }
      this.#step({ type: 'advertised', device: device.facts })
    } else if (kind === 'restart') {
      device.state = 'up'
      device.draining = false
      device.life += 1
      device.reports = 0
      device.leases.clear()
      device.attends.clear()
      device.blocks.clear()
      device.kvEvents = 0
      device.facts = { ...device.facts, incarnation: `${device.facts.deviceId}/life-${device.life}` }
      device.heardAtMs = Number.NEGATIVE_INFINITY
      if (this.#busConnected) this.#step({ type: 'advertised', device: device.facts })
      this.#reportLater(device, 10)
    }
  }

  #reportLater(device: SimulatedDevice, delayMs: number): void {
    const { life } = device
    this.#later(delayMs, () => {
      if (device.life !== life || device.state === 'hung' || device.state === 'dead') return
      this.#reportLater(device, 500)
      if (!this.#busConnected) return
      // The advertisement is repeated now and then, as it is after an outage.
      this.#step({ type: 'advertised', device: device.facts })
      device.reports += 1
      device.heardAtMs = this.#nowMs
      device.heardBy = 'report'
      const use = { slots: device.leases.size, draining: device.draining }
      const ofModel = ({ profile }: { readonly profile: ProfileName }) => {
        return { slots: [...device.leases.values()].filter((of) => of === profile).length }
      }
      this.#step({ type: 'load', load: testLoad(device.facts, device.reports, use, ofModel) })
    })
  }

  #step(event: CoordinatorEvent): void {
    for (const action of this.#core.step(event, this.#nowMs)) this.#do(action)
  }

  #do(action: CoordinatorAction): void {
    switch (action.type) {
      case 'check-health':
        this.#checkHealth(action.device, action.timeoutMs)
        return
      case 'snapshot':
        this.#snapshot(action.device)
        return
      case 'reserve':
        this.#reserve(action)
        return
      case 'run':
        this.#run(action)
        return
      case 'emit': {
        const seen = this.#alive(action.requestId)
        if (action.from !== seen.emitted) throw new Error(`${action.requestId} lost or doubled a token.`)
        seen.emitted += action.count
        if (seen.emitted > seen.maxTokens) throw new Error(`${action.requestId} got too many tokens.`)
        return
      }
      case 'abandon':
        if (this.#alive(action.requestId).openEpoch !== action.epoch) throw new Error('Abandoned twice.')
        this.#closeEpoch(action.requestId)
        return
      case 'finish': {
        const seen = this.#alive(action.requestId)
        const isShort = action.reason === 'length' && seen.emitted !== seen.maxTokens
        if (isShort) throw new Error(`${action.requestId} ended early.`)
        this.#closeEpoch(action.requestId)
        seen.end = action.type
        return
      }
      case 'fail':
      case 'cancelled': {
        const seen = this.#alive(action.requestId)
        if (seen.openEpoch !== null) throw new Error(`${action.requestId} ended with an epoch open.`)
        seen.end = action.type
        return
      }
      case 'requeue':
      case 'forget-device':
    }
  }

  #checkHealth(ref: DeviceRef, timeoutMs: number): void {
    const device = this.#device(ref.deviceId)
    const delayMs = device.state === 'hung' ? timeoutMs : this.#between(1, 20)
    this.#later(delayMs, () => {
      const isAnswering = device.state === 'up' || device.state === 'stuck'
      const ok = isAnswering && device.facts.incarnation === ref.incarnation
      if (ok) {
        device.heardAtMs = this.#nowMs
        device.heardBy = 'check'
      }
      this.#step({ type: 'health', device: ref, ok })
    })
  }

  #snapshot(ref: DeviceRef): void {
    const device = this.#device(ref.deviceId)
    this.#later(this.#between(1, 60), () => {
      const isAnswering = device.state === 'up' && device.facts.incarnation === ref.incarnation
      const groups = [{ variant: TEST_VARIANT, hashes: hashesOf([...device.blocks]) }]
      const snapshot = isAnswering ? { sequence: device.kvEvents, groups } : null
      this.#step({ type: 'kv-snapshot', device: ref, snapshot })
    })
  }

  /** The device keeps a prompt's blocks, or gives all up; the news may be lost. */
  #keepBlocks(device: SimulatedDevice, prompt: readonly string[]): void {
    const removed = this.#chance(0.2) ? [...device.blocks] : []
    for (const hash of removed) device.blocks.delete(hash)
    const stored = prompt.filter((hash) => !device.blocks.has(hash))
    for (const hash of stored) device.blocks.add(hash)
    device.kvEvents += 1
    if (!this.#busConnected || this.#chance(0.1)) return
    const { deviceId, incarnation } = device.facts
    const change = { deviceId, incarnation, sequence: device.kvEvents }
    this.#step({
      type: 'kv',
      change: {
        ...change,
        stored: hashesOf(stored),
        removed: hashesOf(removed),
        variant: TEST_VARIANT,
        tier: 'hbm',
      },
    })
  }

  #reserve(action: Extract<CoordinatorAction, { type: 'reserve' }>): void {
    const { requestId, epoch, decision } = action
    const seen = this.#alive(requestId)
    if (seen.openEpoch !== null) throw new Error(`${requestId} reserved twice.`)
    seen.openEpoch = epoch
    const { prefill, decode, attention, profile } = decision
    this.#checkProfile(requestId, decision)
    seen.plan = attention
    const { attend } = attention
    if (attend?.deviceId === decode.deviceId)
      throw new Error(`${requestId} is offloaded to where it decodes.`)
    for (const ref of [prefill, decode, attend]) if (ref) this.#mustBeHeard(ref)
    let missing = attend ? 2 : 1
    const reserveOn = (ref: DeviceRef, leases: 'leases' | 'attends', max: number): void => {
      const device = this.#device(ref.deviceId)
      this.#call(
        device,
        ref,
        () => {
          if (seen.openEpoch !== epoch) return
          const used = [...device[leases].values()].filter((of) => leases === 'attends' || of === profile)
          if (device.draining || used.length >= max) {
            this.#failed(requestId, epoch, 'reserve', 'refused', ref.deviceId)
            return
          }
          const key = `${requestId}.${epoch}`
          if (leases === 'attends') device.attends.add(key)
          else device.leases.set(key, profile)
          missing -= 1
          if (missing === 0) this.#step({ type: 'reserved', requestId, epoch })
        },
        (delayMs) => {
          this.#later(delayMs, () => this.#failed(requestId, epoch, 'reserve', 'unreachable', ref.deviceId))
        },
      )
    }
    reserveOn(decode, 'leases', this.#device(decode.deviceId).facts.decodeSlots)
    if (attend) reserveOn(attend, 'attends', ATTENDS_MAX)
  }

  /** A pair has one profile, which both devices have, and an exact request no other one. */
  #checkProfile(requestId: string, { profile, prefill, decode, attention }: Decision): void {
    const { profile: asked } = this.#alive(requestId)
    if (asked === 'exact' && profile !== 'exact') throw new Error(`${requestId} gets other numerics.`)
    for (const ref of [prefill, decode, attention.attend]) {
      const facts = ref && this.#device(ref.deviceId).facts
      if (facts && !modelOn(facts, TEST_MODEL_DIGEST, profile)) {
        throw new Error(`${facts.deviceId} has no model of profile ${profile}.`)
      }
    }
  }

  /** Both leases are there before anything runs, and what was settled once stays. */
  #checkBegin(requestId: string, epoch: number, decode: DeviceRef): void {
    const { plan, ...seen } = this.#alive(requestId)
    const key = `${requestId}.${epoch}`
    const isHeld = (ref: DeviceRef, leases: 'leases' | 'attends'): boolean => {
      const device = this.#device(ref.deviceId)
      return (
        device.facts.incarnation !== ref.incarnation || device.state === 'dead' || device[leases].has(key)
      )
    }
    if (!isHeld(decode, 'leases')) throw new Error(`${key} runs without a lease.`)
    if (plan?.attend && !isHeld(plan.attend, 'attends')) throw new Error(`${key} runs without its pages.`)
    const settled = JSON.stringify([plan?.method, plan?.budget])
    if (seen.settled !== null && seen.settled !== settled) throw new Error(`${key} attends in another way.`)
    this.#alive(requestId).settled = settled
  }

  #run(action: Extract<CoordinatorAction, { type: 'run' }>): void {
    const { requestId, epoch, firstIndex } = action
    const seen = this.#alive(requestId)
    this.#checkBegin(requestId, epoch, action.decode)
    const decodeDevice = this.#device(action.decode.deviceId)
    const decode = (): void => {
      this.#keepBlocks(decodeDevice, promptBlocks(seen.promptTokens))
      this.#step({ type: 'decode-started', requestId, epoch })
      this.#decode(requestId, epoch, action.decode, action.prefill ? firstIndex + 1 : firstIndex)
    }
    const lost =
      (deviceId: string) =>
      (delayMs: number): void => {
        this.#later(delayMs, () => this.#failed(requestId, epoch, 'decode', 'unreachable', deviceId))
      }
    if (!action.prefill) {
      this.#call(decodeDevice, action.decode, decode, lost(decodeDevice.facts.deviceId))
      return
    }
    const prefillDevice = this.#device(action.prefill.deviceId)
    const isRefused = this.#chance(0.05)
    this.#call(
      prefillDevice,
      action.prefill,
      () => {
        if (seen.openEpoch !== epoch) return
        if (isRefused) {
          this.#failed(requestId, epoch, 'prefill', 'refused', prefillDevice.facts.deviceId)
          return
        }
        this.#keepBlocks(prefillDevice, promptBlocks(seen.promptTokens))
        if (this.#chance(0.1)) {
          const hashes = hashesOf(promptBlocks(seen.promptTokens).slice(1))
          this.#step({ type: 'kv-missed', device: action.decode, hashes })
        }
        // The decoder's first token may overtake the prefill's.
        this.#later(this.#between(0, 30), () => {
          this.#step({ type: 'prefill-finished', requestId, epoch, stopped: this.#chance(0.05) })
        })
        this.#later(this.#between(0, 30), () => this.#step({ type: 'kv-sent', requestId, epoch }))
        this.#call(decodeDevice, action.decode, decode, lost(decodeDevice.facts.deviceId))
      },
      lost(prefillDevice.facts.deviceId),
    )
  }

  #decode(requestId: string, epoch: number, ref: DeviceRef, index: number): void {
    const seen = this.#seen.get(requestId)
    const device = this.#device(ref.deviceId)
    if (seen?.openEpoch !== epoch) return
    if (index >= seen.maxTokens) {
      this.#step({ type: 'decode-finished', requestId, epoch, reason: 'length' })
      return
    }
    const dice = this.#between(0, 1_000)
    const attend = seen.plan?.attend
    this.#call(
      device,
      ref,
      () => {
        const ofEpoch = { requestId, epoch }
        const attendant = attend && this.#device(attend.deviceId)
        if (attendant && (attendant.state !== 'up' || attendant.facts.incarnation !== attend.incarnation)) {
          // Of a device that is silent the decoding one learns by its own deadline.
          const delayMs = attendant.state === 'dead' ? 1 : 500
          const { deviceId } = attend
          this.#later(delayMs, () => this.#failed(requestId, epoch, 'decode', 'unreachable', deviceId))
          return
        }
        if (dice < 10) this.#step({ type: 'decode-finished', ...ofEpoch, reason: 'preempted' })
        else if (dice < 20) this.#failed(requestId, epoch, 'decode', 'lease-expired', ref.deviceId)
        else if (dice < 30) this.#failed(requestId, epoch, 'decode', 'broken', ref.deviceId)
        else if (dice < 40 && attend) this.#failed(requestId, epoch, 'decode', 'broken', attend.deviceId)
        else {
          const count = Math.min(1 + (dice % 3), seen.maxTokens - index)
          this.#step({ type: 'tokens', ...ofEpoch, firstIndex: index, count })
          this.#decode(requestId, epoch, ref, index + count)
        }
      },
      (delayMs) =>
        this.#later(delayMs, () => this.#failed(requestId, epoch, 'decode', 'unreachable', ref.deviceId)),
    )
  }

  /** Answers after a while; `lost` where that life of the device does not live to answer. */
  #call(device: SimulatedDevice, ref: DeviceRef, answers: () => void, lost: (delayMs: number) => void): void {
    this.#later(this.#between(1, 40), () => {
      if (device.state === 'up' && device.facts.incarnation === ref.incarnation) answers()
      else if (device.state !== 'stuck') lost(device.state === 'hung' ? this.#between(1_000, 2_000) : 1)
    })
  }

  #failed(
    requestId: string,
    epoch: number,
    call: 'reserve' | 'prefill' | 'decode',
    fault: Fault,
    deviceId: string,
  ): void {
    this.#step({ type: 'call-failed', requestId, epoch, call, fault, deviceId })
  }

  #mustBeHeard(ref: DeviceRef): void {
    const device = this.#device(ref.deviceId)
    // An outage since the last report means that the next check decides.
    const isByReports = device.heardBy === 'report' && device.heardAtMs > this.#busDownAtMs
    const silenceMaxMs = isByReports ? REPORT_SILENCE_MAX_MS : CHECKED_SILENCE_MAX_MS
    // Of an earlier life nothing can be known while the bus is down.
    if (device.facts.incarnation !== ref.incarnation) {
      if (this.#busConnected && device.heardAtMs > 0) throw new Error(`${ref.incarnation} is over.`)
      return
    }
    if (this.#nowMs - device.heardAtMs > silenceMaxMs) throw new Error(`${ref.deviceId} was not heard.`)
  }

  #checkRest(): void {
    for (const device of this.#devices) {
      const kept = [...device.leases.keys(), ...device.attends]
      if (kept.length > 0) throw new Error(`${device.facts.deviceId} keeps ${kept}.`)
      const { deviceId } = device.facts
      const models = this.#core.view.device(deviceId)?.models ?? []
      if (models.some((model) => !model.isIdle)) throw new Error(`${deviceId} seems in use.`)
    }
    if (this.#core.activeCount !== 0 || this.#core.queuedCount !== 0) throw new Error('Requests are left.')
  }

  #alive(requestId: string): Seen {
    const seen = this.#seen.get(requestId)
    if (!seen || seen.end !== null) throw new Error(`${requestId} is over.`)
    return seen
  }

  #closeEpoch(requestId: string): void {
    const seen = this.#alive(requestId)
    for (const device of this.#devices) {
      device.leases.delete(`${requestId}.${seen.openEpoch}`)
      device.attends.delete(`${requestId}.${seen.openEpoch}`)
    }
    seen.openEpoch = null
  }

  #device(deviceId: string): SimulatedDevice {
    const device = this.#devices.find(({ facts }) => facts.deviceId === deviceId)
    if (!device) throw new Error(`The core made up ${deviceId}.`)
    return device
  }

  #later(delayMs: number, does: () => void): void {
    this.#at(this.#nowMs + delayMs, does)
  }

  #at(atMs: number, does: () => void): void {
    const entry = { atMs, does }
    let index = this.#agenda.length
    while (index > 0) {
      const before = this.#agenda[index - 1]
      if (!before || before.atMs <= atMs) break
      index -= 1
    }
    this.#agenda.splice(index, 0, entry)
  }

  #chance(share: number): boolean {
    return this.#between(0, 1_000_000) < share * 1_000_000
  }

  /** A whole number from `from` up to, not including, `to`. */
  #between(from: number, to: number): number {
    this.#random = (this.#random + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(this.#random ^ (this.#random >>> 15), 1 | this.#random)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return from + (((mixed ^ (mixed >>> 14)) >>> 0) % (to - from))
  }
}

/** Every prompt begins like every other one. */
function promptBlocks(promptTokens: number): string[] {
  return Array.from({ length: Math.floor(promptTokens / 16) }, (_, index) => `shared.${index}`)
}
