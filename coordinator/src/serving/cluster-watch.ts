/**
 * Follows what devices say of themselves and hands it to the core as events: the
 * bucket of advertisements, load reports, KV events, and the state of our own connection.
 *
 * Malformed messages are logged once a device and dropped; they count as silence.
 */
import type { Advertisement } from '@kvasir/proto/kvasir/capability/v1/capability'
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
import { factsOf, readAdvertisement, readKvEvent, readLoad } from './device-facts.js'

/** Devices whose malformed messages are remembered as logged. */
const COMPLAINTS_MAX = 1_000

export class ClusterWatch {
  readonly #advertisements = new Map<string, Advertisement>()
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
      this.#take(deviceOfSubject(subject), () => tell({ type: 'load', load: readLoad(message) }))
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

  forget(device: DeviceRef): void {
    this.#advertisements.delete(keyOf(device))
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
