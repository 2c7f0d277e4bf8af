/**
 * Follows what devices say of themselves and hands it to the core as events: the
 * bucket of advertisements, load reports, KV events, and the state of our own connection.
 *
 * Malformed messages are logged once a device and dropped; they count as silence.
 */
import {
  type Advertisement,
  ArrivalPhase,
  type LoadReport,
} from '@kvasir/proto/kvasir/capability/v1/capability'
import type { Bus } from '@kvasir/runtime/bus'
import { messageOf } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import {
  BUCKET_TTL_MS,
  DEVICES_BUCKET,
  deviceOfSubject,
  kvSubject,
  loadSubject,
} from '@kvasir/runtime/subjects'
import type { DeviceRef } from '../core/facts.js'
import type { CoordinatorEvent } from '../core/protocol.js'
import { factsOf, loadFactsOf, readAdvertisement, readKvEvent, readLoadReport } from './device-facts.js'

/** Devices whose malformed messages are remembered as logged. */
const COMPLAINTS_MAX = 1_000

export class ClusterWatch {
  readonly #advertisements = new Map<string, Advertisement>()
  /** The newest of each device, by id. */
  readonly #loads = new Map<string, LoadReport>()
  readonly #complaints = new Set<string>()
  readonly #log: Logger
  readonly #stops: (() => void)[]

  constructor(bus: Bus, log: Logger, tell: (event: CoordinatorEvent) => void) {
    this.#log = log
    const stopBucket = bus.bucket(DEVICES_BUCKET, { ttlMs: BUCKET_TTL_MS }).watch(({ key, value }) => {
      if (value === undefined) {
        tell({ type: 'withdrawn', deviceId: key })
        return
      }
      this.#take(key, () => {
        const advertisement = readAdvertisement(value)
        this.#advertisements.set(keyOf(advertisement), advertisement)
        tell({ type: 'advertised', device: factsOf(advertisement) })
      })
    })
    const loads = bus.subscribe(loadSubject('*'), (message, subject) => {
      this.#take(deviceOfSubject(subject), () => {
        const report = readLoadReport(message)
        this.#reported(report)
        tell({ type: 'load', load: loadFactsOf(report) })
      })
    })
    const kvEvents = bus.subscribe(kvSubject('*'), (message, subject) => {
      this.#take(deviceOfSubject(subject), () => tell({ type: 'kv', change: readKvEvent(message) }))
    })
    const stopStatus = bus.onStatus((connected) => tell({ type: 'bus', connected }))
    this.#stops = [stopBucket, () => loads.unsubscribe(), () => kvEvents.unsubscribe(), stopStatus]
    if (!bus.connected) tell({ type: 'bus', connected: false })
  }

  /** The newest advertisement of this life of the device. */
  advertisement(device: DeviceRef): Advertisement | undefined {
    return this.#advertisements.get(keyOf(device))
  }

  /** The newest load report of this life of the device. */
  loadReport(device: DeviceRef): LoadReport | undefined {
    const report = this.#loads.get(device.deviceId)
    return report && String(report.incarnation) === device.incarnation ? report : undefined
  }

  /** What could not be loaded before is asked for again: it has failed no longer. */
  loadBegins(deviceId: string, model: string): void {
    const report = this.#loads.get(deviceId)
    if (!report) return
    const arrivals = report.arrivals.filter(
      ({ name, phase }) => name !== model || phase !== ArrivalPhase.FAILED,
    )
    this.#loads.set(deviceId, { ...report, arrivals })
  }

  forget(device: DeviceRef): void {
    this.#advertisements.delete(keyOf(device))
    if (this.loadReport(device)) this.#loads.delete(device.deviceId)
  }

  /** Reports of devices that never advertised are not kept, nor is one older than what is there. */
  #reported(report: LoadReport): void {
    if (!this.#advertisements.has(keyOf(report))) return
    const known = this.loadReport({ deviceId: report.deviceId, incarnation: String(report.incarnation) })
    if (!known || known.sequence < report.sequence) this.#loads.set(report.deviceId, report)
  }

  close(): void {
    for (const stop of this.#stops) stop()
  }

  #take(deviceId: string, action: () => void): void {
    try {
      action()
    } catch (thrown) {
      if (this.#complaints.has(deviceId) || this.#complaints.size >= COMPLAINTS_MAX) return
      this.#complaints.add(deviceId)
      this.#log.warn({ deviceId }, `ignoring messages of ${deviceId}: ${messageOf(thrown)}`)
    }
  }
}

function keyOf(device: { readonly deviceId: string; readonly incarnation: string | bigint }): string {
  return `${device.deviceId}/${device.incarnation}`
}
