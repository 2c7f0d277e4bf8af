/**
 * What the coordinator believes of every device: who is alive, how full it is, and
 * what this coordinator itself has asked of it since the last report.
 *
 * A view, not the truth: using it wrongly costs time, never correctness, since the
 * owning device has the last word (I6).
 *
 * V1. A device is `ready` only while it was heard: by load reports at most
 *     REPORT_SILENCE_MAX_MS ago, or, where none came yet or they stopped (our bus or
 *     its own is down), by health checks at most CHECK_SILENCE_MAX_MS ago. An
 *     advertisement is not a sign of life: the bucket keeps those of the dead. Nor are
 *     reports enough after a call found nobody: then a check must find it first.
 * V2. Messages of an incarnation that another one superseded are ignored for ever;
 *     messages of one that was not advertised yet, until it is.
 */
import { DeviceTable, DRAINING, WITH_MODELS } from './device-table.js'
import { type DeviceTraits, traitsOf } from './device-traits.js'
import type { DeviceFacts, DeviceRef, LoadFacts, ModelFacts } from './facts.js'
import { LoadedModel, useOf } from './loaded-model.js'

/** Reports come every 500 ms; a crashed device is passed over within this time (I5). */
export const REPORT_SILENCE_MAX_MS = 1_100
/** Checks go out every second, and an answer may take CHECK_TIMEOUT_MS. */
export const CHECK_SILENCE_MAX_MS = 1_700
export const CHECK_INTERVAL_MS = 1_000
export const CHECK_TIMEOUT_MS = 500
/** Failed checks in a row after which running work is given up; gRPC's keepalive is usually faster. */
const FAILED_CHECKS_LOST = 2
/** A device silent for so long is no longer checked nor shown. */
const FORGET_AFTER_MS = 60_000
/** A device that refused is left alone for so long, or until its next report. */
const REFUSED_PAUSE_MS = 250
/** Superseded incarnations remembered for each device. */
const SUPERSEDED_MAX = 8
/** Of a model that is newer than the report. */
const UNUSED = { decodeSlotsUsed: 0, prefillTokensWaiting: 0, tiers: [] }

export type DeviceState = 'ready' | 'draining' | 'lost'

export interface DeviceView {
  readonly facts: DeviceFacts
  readonly ref: DeviceRef
  readonly load: LoadFacts | undefined
  readonly heardAtMs: number
  /** In the view's table. */
  readonly row: number
  readonly traits: DeviceTraits
  /** In the order of the advertisement; also those that it has no more and that an epoch still counts on. */
  readonly models: readonly LoadedModel[]
}

interface DeviceEntry extends DeviceView {
  facts: DeviceFacts
  ref: DeviceRef
  load: LoadFacts | undefined
  heardAtMs: number
  advertisedAtMs: number
  heardBy: 'reports' | 'checks'
  withdrawn: boolean
  /** It fell silent or a check failed, which anything heard of it ends; or a call found nobody, which a check must. */
  suspect: 'no' | 'silent' | 'unreachable'
  failedChecks: number
  /** Running work on it was given up. */
  givenUp: boolean
  checkedAtMs: number
  refusedUntilMs: number
  superseded: string[]
  traits: DeviceTraits
  models: readonly LoadedModel[]
}

/** What a pass of time brought about. */
export interface Ageing {
  readonly checks: readonly DeviceRef[]
  /** Running work on these is to be given up. */
  readonly lost: readonly DeviceRef[]
  readonly forgotten: readonly DeviceRef[]
}

export class ClusterView {
  /** What placement goes through. */
  readonly table = new DeviceTable()
  readonly #devices = new Map<string, DeviceEntry>()
  #busConnected = true

  get busConnected(): boolean {
    return this.#busConnected
  }

  devices(): Iterable<DeviceView> {
    return this.#devices.values()
  }

  device(deviceId: string): DeviceView | undefined {
    return this.#devices.get(deviceId)
  }

  state(deviceId: string, nowMs: number): DeviceState {
    const entry = this.#devices.get(deviceId)
    if (entry?.suspect !== 'no' || !isHeard(entry, nowMs)) return 'lost'
    return isDraining(entry) ? 'draining' : 'ready'
  }

  /** The model on this life of the device, where it is loaded. */
  model(device: DeviceRef, named: Pick<ModelFacts, 'digest' | 'profile'>): LoadedModel | undefined {
    const entry = this.#current(device)
    return entry && modelIn(entry, named)
  }

  /** Returns the life that this advertisement ends, if any. */
  advertise(facts: DeviceFacts, nowMs: number): DeviceRef | undefined {
    const old = this.#devices.get(facts.deviceId)
    if (old?.superseded.includes(facts.incarnation)) return undefined
    if (old && old.facts.incarnation === facts.incarnation) {
      old.facts = facts
      old.withdrawn = false
      old.advertisedAtMs = nowMs
      this.#takeModels(old)
      this.#settle(old)
      return undefined
    }
    for (const model of old?.models ?? []) model.forget()
    const superseded = old ? [...old.superseded, old.facts.incarnation].slice(-SUPERSEDED_MAX) : []
    const entry: DeviceEntry = {
      facts,
      ref: { deviceId: facts.deviceId, incarnation: facts.incarnation },
      load: undefined,
      heardAtMs: Number.NEGATIVE_INFINITY,
      advertisedAtMs: nowMs,
      heardBy: 'checks',
      withdrawn: false,
      suspect: 'no',
      failedChecks: 0,
      givenUp: false,
      checkedAtMs: Number.NEGATIVE_INFINITY,
      refusedUntilMs: 0,
      superseded,
      row: old?.row ?? this.table.newRow(),
      traits: traitsOf(facts),
      models: [],
    }
    this.#takeModels(entry)
    this.#devices.set(facts.deviceId, entry)
    this.#settle(entry)
    return old?.ref
  }

  /** The device took its advertisement back: it gets nothing new and finishes what it has. */
  withdraw(deviceId: string): void {
    const entry = this.#devices.get(deviceId)
    if (!entry) return
    entry.withdrawn = true
    this.#settle(entry)
  }

  report(load: LoadFacts, nowMs: number): void {
    const entry = this.#current(load)
    if (!entry || (entry.load && load.sequence <= entry.load.sequence)) return
    entry.load = load
    entry.heardBy = 'reports'
    entry.refusedUntilMs = 0
    // A device may report and yet be out of reach for calls, so that only a check ends that suspicion.
    const isUnreachable = entry.suspect === 'unreachable'
    heard(entry, nowMs)
    if (isUnreachable) entry.suspect = 'unreachable'
    this.#settle(entry)
    for (const model of entry.models) model.reported(useOf(load, model.facts) ?? UNUSED)
  }

  /** The answer to a health check. */
  checked(device: DeviceRef, ok: boolean, nowMs: number): void {
    const entry = this.#current(device)
    if (!entry) return
    if (entry.heardBy === 'reports') {
      // Asked because a call failed: a yes ends the suspicion, a no changes nothing before reports stop.
      if (entry.suspect !== 'no' && ok) heard(entry, entry.heardAtMs)
    } else if (ok) {
      heard(entry, nowMs)
    } else {
      if (entry.suspect === 'no') entry.suspect = 'silent'
      entry.failedChecks += 1
    }
    this.#settle(entry)
  }

  /** A call to the device found nobody. */
  suspect(device: DeviceRef): void {
    const entry = this.#current(device)
    if (!entry || entry.suspect === 'unreachable') return
    entry.suspect = 'unreachable'
    entry.checkedAtMs = Number.NEGATIVE_INFINITY
    this.#settle(entry)
  }

  refused(deviceId: string, nowMs: number): void {
    const entry = this.#devices.get(deviceId)
    if (!entry) return
    entry.refusedUntilMs = nowMs + REFUSED_PAUSE_MS
    this.#settle(entry)
  }

  /** While our connection is down no report arrives, so every device is asked directly. */
  setBusConnected(connected: boolean): void {
    this.#busConnected = connected
    if (connected) return
    for (const entry of this.#devices.values()) {
      // A report that was just missed must not count as silence: the first check decides.
      entry.heardBy = 'checks'
      this.#settle(entry)
    }
  }

  /** Lets time pass. Call at least every 100 ms. */
  age(nowMs: number): Ageing {
    const checks: DeviceRef[] = []
    const lost: DeviceRef[] = []
    const forgotten: DeviceRef[] = []
    for (const entry of this.#devices.values()) {
      const silentMs = nowMs - Math.max(entry.heardAtMs, entry.advertisedAtMs)
      const isIdle = entry.models.every(({ own }) => own.slots === 0 && own.prefillTokens === 0)
      if (silentMs > FORGET_AFTER_MS || (entry.withdrawn && isIdle && !isHeard(entry, nowMs))) {
        this.#devices.delete(entry.facts.deviceId)
        this.table.freeRow(entry.row)
        forgotten.push(entry.ref)
        lost.push(entry.ref)
        continue
      }
      if (entry.heardBy === 'reports' && !isHeard(entry, nowMs)) {
        entry.heardBy = 'checks'
        if (entry.suspect === 'no') entry.suspect = 'silent'
        this.#settle(entry)
      }
      const isAsked = entry.heardBy === 'checks' || entry.suspect !== 'no'
      if (isAsked && nowMs - entry.checkedAtMs >= CHECK_INTERVAL_MS) {
        entry.checkedAtMs = nowMs
        checks.push(entry.ref)
      }
      if (entry.failedChecks >= FAILED_CHECKS_LOST && !entry.givenUp) {
        entry.givenUp = true
        lost.push(entry.ref)
      }
    }
    return { checks, lost, forgotten }
  }

  /** Follows what the device has loaded and what it has no more. */
  #takeModels(entry: DeviceEntry): void {
    entry.traits = traitsOf(entry.facts)
    const advertised = entry.facts.models.map((facts) => {
      const known = modelIn(entry, facts)
      known?.advertised(facts)
      return known ?? new LoadedModel(entry, facts, this.table.tableOf(facts))
    })
    const left = entry.models.filter((model) => !advertised.includes(model))
    entry.models = [...advertised, ...left.filter((model) => !model.isIdle)]
    for (const model of left) model.left()
    for (const model of advertised) model.write()
  }

  /** Keeps the table in step with what is believed of the device. */
  #settle(entry: DeviceEntry): void {
    const { table } = this
    const { row, facts } = entry
    table.changes += 1
    table.flags[row] = (facts.models.length > 0 ? WITH_MODELS : 0) | (isDraining(entry) ? DRAINING : 0)
    table.readyUntilMs[row] = entry.suspect === 'no' ? heardUntilMs(entry) : Number.NEGATIVE_INFINITY
    table.refusedUntilMs[row] = entry.refusedUntilMs
    table.protocolVersion[row] = facts.protocolVersion
    table.protocolVersionMin[row] = facts.protocolVersionMin
  }

  #current(device: DeviceRef): DeviceEntry | undefined {
    const entry = this.#devices.get(device.deviceId)
    return entry?.facts.incarnation === device.incarnation ? entry : undefined
  }
}

function isDraining({ withdrawn, load }: DeviceEntry): boolean {
  return withdrawn || load?.draining === true
}

function heard(entry: DeviceEntry, nowMs: number): void {
  entry.heardAtMs = nowMs
  entry.suspect = 'no'
  entry.failedChecks = 0
  entry.givenUp = false
}

function isHeard(entry: DeviceEntry, nowMs: number): boolean {
  return nowMs <= heardUntilMs(entry)
}

function heardUntilMs({ heardAtMs, heardBy }: DeviceEntry): number {
  return heardAtMs + (heardBy === 'reports' ? REPORT_SILENCE_MAX_MS : CHECK_SILENCE_MAX_MS)
}

function modelIn(
  { models }: DeviceView,
  { digest, profile }: Pick<ModelFacts, 'digest' | 'profile'>,
): LoadedModel | undefined {
  return models.find(({ facts }) => facts.digest === digest && facts.profile === profile)
}
