/**
 * Predicts how long a stage of a memory pipeline takes on a device: the call, and the roofline of its
 * work over an efficiency of its own for each (device, kernel), which measured stages teach.
 *
 * K1. A prediction is finite and at least CALL_MS whatever a device advertises.
 * K2. What is kept is bounded by the devices known: `forget` drops what was learned of one.
 */
import { f32WorkMs, type RatedDevice, type Work } from './roofline.js'

/** Calling a kernel and hearing of its end; what the smallest stage takes. */
const CALL_MS = 0.005
/** As in cost-model.ts: published utilisations lie between 0.3 and 0.6 of the peak that binds. */
const EFFICIENCY_GUESS = 0.4
const EFFICIENCY_MIN = 1e-5
const EFFICIENCY_MAX = 4
/** Weight of the newest record. */
const RECORD_WEIGHT = 0.2

export class StageCosts {
  /** By device, then by kernel. */
  readonly #efficiencies = new Map<string, Map<string, number>>()

  /**
   * Milliseconds of so much work of a kernel on the device, in f32. `guess`: its efficiency while no such
   * stage has run there.
   */
  stageMs(device: RatedDevice, kernel: string, work: Work, guess = EFFICIENCY_GUESS): number {
    const efficiency = this.#efficiencies.get(device.deviceId)?.get(kernel) ?? guess
    return CALL_MS + f32WorkMs(device, work) / efficiency
  }

  /** Learns from a stage that ran. */
  observe(device: RatedDevice, kernel: string, work: Work, measuredMs: number): void {
    const ideal = f32WorkMs(device, work)
    if (!(measuredMs > 0) || !(ideal > 0)) return
    const seen = Math.min(EFFICIENCY_MAX, Math.max(EFFICIENCY_MIN, ideal / measuredMs))
    const ofDevice = this.#efficiencies.get(device.deviceId) ?? new Map<string, number>()
    const old = ofDevice.get(kernel)
    ofDevice.set(kernel, old === undefined ? seen : old + RECORD_WEIGHT * (seen - old))
    this.#efficiencies.set(device.deviceId, ofDevice)
  }

  /** Drops what was learned of a device that left. */
  forget(deviceId: string): void {
    this.#efficiencies.delete(deviceId)
  }
}
