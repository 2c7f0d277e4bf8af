/**
 * Which models the devices have, are getting or could not get: from what they advertise and report.
 *
 * Invariant: what is loaded on a device is no arrival there, whatever a report from before says.
 */
import {
  type Advertisement,
  ArrivalPhase,
  type LoadedModel,
  type LoadReport,
  type ModelArrival,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import type { ClusterView, DeviceView } from '../core/cluster-view.js'
import type { CoordinatorCore } from '../core/coordinator-core.js'
import type { DeviceRef, ProfileName } from '../core/facts.js'
import {
  type DeviceModelReport,
  type ModelArrivalReport,
  type ModelOnDevice,
  type ModelReport,
  type ModelTraits,
  servedName,
} from '../model-reports.js'
import { profileName } from './device-facts.js'

const PROFILES: readonly ProfileName[] = ['exact', 'paper']
const PHASES: Partial<Record<ArrivalPhase, ModelArrivalReport['state']>> = {
  [ArrivalPhase.FETCHING]: 'fetching',
  [ArrivalPhase.LOADING]: 'loading',
  [ArrivalPhase.FAILED]: 'failed',
}

/** What a device said last, in its own words. */
export interface Said {
  advertisement(device: DeviceRef): Advertisement | undefined
  loadReport(device: DeviceRef): LoadReport | undefined
}

/** A name and digest that devices advertise, and those devices, in the order in which they came. */
export interface AdvertisedModel {
  readonly name: string
  readonly digest: string
  readonly devices: readonly DeviceRef[]
}

export function loadedModels(
  advertisement: Advertisement | undefined,
  report: LoadReport | undefined,
): DeviceModelReport[] {
  return (advertisement?.models ?? []).flatMap((model) => {
    const profile = profileName(model.profile)
    if (!profile) return []
    const load = report?.models.find(
      (used) => used.digest === model.digest && profileName(used.profile) === profile,
    )
    return [
      {
        name: model.name,
        digest: model.digest,
        profile,
        numerics: model.numerics ?? 'f32',
        contextTokensMax: model.contextTokensMax,
        weightBytes: Number(model.residentBytes ?? model.weightBytes),
        kvBytes: kvBytesOf(model, advertisement),
        // An agent of one model reports it in the sums alone.
        decodeSlotsUsed: load?.decodeSlotsUsed ?? report?.decodeSlotsUsed ?? 0,
      },
    ]
  })
}

function kvBytesOf(model: LoadedModel, advertisement: Advertisement | undefined): number {
  const tiers = model.tiers.length > 0 ? model.tiers : (advertisement?.tiers ?? [])
  return tiers.reduce((sum, { capacityBytes }) => sum + Number(capacityBytes), 0)
}

export function modelArrivals(
  loaded: readonly DeviceModelReport[],
  report: LoadReport | undefined,
): ModelArrivalReport[] {
  const arrivals = (report?.arrivals ?? []).flatMap((arrival) => arrivalReport(arrival) ?? [])
  const isSame = (a: Pick<ModelArrivalReport, 'name' | 'digest' | 'profile'>, b: typeof a): boolean =>
    a.profile === b.profile &&
    (a.digest !== '' && b.digest !== '' ? a.digest === b.digest : servedName(a.name) === servedName(b.name))
  return arrivals.filter(
    (arrival) =>
      !loaded.some((model) => isSame(arrival, model)) &&
      // What failed before and is tried again has not failed.
      (arrival.state !== 'failed' ||
        !arrivals.some((other) => other.state !== 'failed' && isSame(arrival, other))),
  )
}

function arrivalReport(arrival: ModelArrival): ModelArrivalReport | undefined {
  const profile = profileName(arrival.profile)
  const state = PHASES[arrival.phase]
  if (!profile || !state) return undefined
  return {
    name: arrival.name,
    digest: arrival.digest,
    profile,
    state,
    bytes: Number(arrival.bytes),
    bytesTotal: Number(arrival.bytesTotal),
    sourceDeviceId: arrival.sourceDeviceId || null,
    error: arrival.error || null,
  }
}

/** By name; their devices by id, those that have it before those that get it. */
export function modelReports(core: CoordinatorCore, said: Said, nowMs: number): ModelReport[] {
  const byKey = new Map<string, ModelReport & { readonly devices: ModelOnDevice[] }>()
  const add = (name: string, digest: string, context: number | null) => {
    // Of what is on its way the digest may not be known yet.
    const key =
      digest === ''
        ? ([...byKey.keys()].find((known) => known.startsWith(`${name}\n`)) ?? `${name}\n`)
        : `${name}\n${digest}`
    const known = byKey.get(key)
    if (known) return known
    const report = {
      name,
      digest,
      contextTokensMax: context,
      profiles: profilesOf(core.view, digest),
      servedProfiles: PROFILES.filter((profile) => core.isServed(digest, profile, nowMs)),
      devices: [],
    }
    byKey.set(key, report)
    return report
  }
  const byId = [...core.view.devices()].sort((a, b) => (a.facts.deviceId < b.facts.deviceId ? -1 : 1))
  const devices = byId.map((device) => ({
    device,
    isLost: core.view.state(device.facts.deviceId, nowMs) === 'lost',
    ...modelsOn(device, said),
  }))
  for (const { device, isLost, loaded } of devices) {
    for (const model of loaded) {
      const { devices } = add(model.name, model.digest, model.contextTokensMax)
      if (!isLost) devices.push(loadedOn(device.facts.deviceId, model))
    }
  }
  for (const { device, isLost, arrivals } of devices) {
    if (isLost) continue
    for (const arrival of arrivals) {
      const { devices } = add(nameOfArrival(arrival, byKey.values()), arrival.digest, null)
      devices.push(arrivingOn(device.facts.deviceId, arrival))
    }
  }
  return [...byKey.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
}

/** A path may lead to a model that is known by another name. */
function nameOfArrival({ name, digest }: ModelArrivalReport, known: Iterable<ModelReport>): string {
  const same = digest === '' ? undefined : [...known].find((model) => model.digest === digest)
  return same?.name ?? servedName(name)
}

export function modelsOn(
  { ref }: DeviceView,
  said: Said,
): { loaded: DeviceModelReport[]; arrivals: ModelArrivalReport[] } {
  const report = said.loadReport(ref)
  const loaded = loadedModels(said.advertisement(ref), report)
  return { loaded, arrivals: modelArrivals(loaded, report) }
}

function loadedOn(deviceId: string, model: DeviceModelReport): ModelOnDevice {
  const { profile, numerics, weightBytes, kvBytes } = model
  return {
    ...{ deviceId, profile, numerics, weightBytes, kvBytes },
    ...{ state: 'loaded', bytes: 0, bytesTotal: 0, sourceDeviceId: null, error: null },
  }
}

function arrivingOn(deviceId: string, arrival: ModelArrivalReport): ModelOnDevice {
  const { profile, state, bytes, bytesTotal, sourceDeviceId, error } = arrival
  return {
    ...{ deviceId, profile, state, bytes, bytesTotal, sourceDeviceId, error },
    ...{ numerics: null, weightBytes: null, kvBytes: null },
  }
}

function profilesOf(view: ClusterView, digest: string): ProfileName[] {
  const devices = [...view.devices()]
  return PROFILES.filter((profile) =>
    devices.some(({ facts }) =>
      facts.models.some((model) => model.digest === digest && model.profile === profile),
    ),
  )
}

export function advertisedModels(view: ClusterView): AdvertisedModel[] {
  const byKey = new Map<string, { name: string; digest: string; devices: DeviceRef[] }>()
  for (const { facts, ref } of view.devices()) {
    for (const { name, digest } of facts.models) {
      const key = `${name}\n${digest}`
      const known = byKey.get(key) ?? { name, digest, devices: [] }
      if (!known.devices.includes(ref)) known.devices.push(ref)
      byKey.set(key, known)
    }
  }
  return [...byKey.values()]
}

export function modelTraits(view: ClusterView, digest: string): ModelTraits | undefined {
  const models = [...view.devices()].flatMap(({ facts }) => facts.models)
  const model = models.find((candidate) => candidate.digest === digest)
  if (!model) return undefined
  return { profiles: profilesOf(view, digest), slidingWindowTokens: model.slidingWindowTokens ?? null }
}
