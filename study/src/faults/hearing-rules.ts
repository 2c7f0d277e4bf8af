/**
 * I5: a device that was not heard of is not chosen. A model of its own of what the coordinator heard, and when.
 *
 * A report counts for 1.1 s, a health check for 1.7 s; where the coordinator's own bus connection went down since, the report
 * counts as long as a check, which is asked for at once. After a call found nobody only a check counts.
 */
import { CHECK_SILENCE_MAX_MS, REPORT_SILENCE_MAX_MS } from '@kvasir/coordinator/core/cluster-view'
import type { DeviceRef } from '@kvasir/coordinator/core/facts'
import type { CoordinatorEvent } from '@kvasir/coordinator/core/protocol'
import { Violation } from './violation.js'

const SUPERSEDED_MAX = 8

interface Heard {
  incarnation: string
  readonly superseded: string[]
  reports: number
  reportedMs: number
  checkedMs: number
  /** A call found nobody, and no check did since. */
  isSuspect: boolean
}

export class HearingRules {
  readonly #devices = new Map<string, Heard>()
  #busDownMs = Number.NEGATIVE_INFINITY

  on(event: CoordinatorEvent, nowMs: number): void {
    switch (event.type) {
      case 'bus':
        if (!event.connected) this.#busDownMs = nowMs
        break
      case 'advertised':
        this.#advertised(event.device)
        break
      case 'load': {
        const heard = this.#current(event.load)
        if (heard === undefined || event.load.sequence <= heard.reports) break
        heard.reports = event.load.sequence
        heard.reportedMs = nowMs
        break
      }
      case 'health': {
        const heard = event.ok ? this.#current(event.device) : undefined
        if (heard === undefined) break
        heard.checkedMs = nowMs
        heard.isSuspect = false
        break
      }
      default:
    }
  }

  foundNobody(device: DeviceRef): void {
    const heard = this.#current(device)
    if (heard) heard.isSuspect = true
  }

  /** The coordinator counts on this life of the device from now on. */
  checkChosen(device: DeviceRef, requestId: string, nowMs: number): void {
    const heard = this.#devices.get(device.deviceId)
    if (heard === undefined || heard.incarnation !== device.incarnation) {
      fail(device, requestId, 'of which a newer life is known, or none')
    }
    if (heard.isSuspect) fail(device, requestId, 'where a call found nobody, and no check did since')
    const reportMax = heard.reportedMs <= this.#busDownMs ? CHECK_SILENCE_MAX_MS : REPORT_SILENCE_MAX_MS
    const isHeard = nowMs - heard.reportedMs <= reportMax || nowMs - heard.checkedMs <= CHECK_SILENCE_MAX_MS
    if (isHeard) return
    const silentMs = Math.round(nowMs - Math.max(heard.reportedMs, heard.checkedMs))
    fail(device, requestId, `which was not heard of for ${silentMs} ms`)
  }

  #advertised({ deviceId, incarnation }: DeviceRef): void {
    const known = this.#devices.get(deviceId)
    if (known?.incarnation === incarnation || known?.superseded.includes(incarnation)) return
    const superseded = known ? [...known.superseded, known.incarnation].slice(-SUPERSEDED_MAX) : []
    const never = Number.NEGATIVE_INFINITY
    this.#devices.set(deviceId, {
      ...{ incarnation, superseded, reports: 0, reportedMs: never, checkedMs: never, isSuspect: false },
    })
  }

  #current({ deviceId, incarnation }: DeviceRef): Heard | undefined {
    const heard = this.#devices.get(deviceId)
    return heard?.incarnation === incarnation ? heard : undefined
  }
}

function fail({ deviceId }: DeviceRef, requestId: string, why: string): never {
  throw new Violation('I5', `${requestId} is placed on ${deviceId}, ${why}.`, [requestId, deviceId])
}
