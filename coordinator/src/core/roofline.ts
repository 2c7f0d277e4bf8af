/**
 * Ideal times from what devices advertise: what a device could do at its rated peak, and what a link
 * could carry. Who predicts with them divides by the efficiency that was measured.
 */
import type { DeviceFacts, PrecisionName } from './facts.js'

export type RatedDevice = Pick<DeviceFacts, 'deviceId' | 'tiers' | 'compute'>
export type LinkedDevice = Pick<DeviceFacts, 'deviceId' | 'link'>

/** What a device does in a step or a stage. */
export interface Work {
  /** Arithmetic operations; a multiply-add counts as two. */
  readonly operations: number
  /** Bytes read from the device's memory. */
  readonly readBytes: number
}

/** Where a device advertises no rate. */
const UNKNOWN_OPS_PER_SECOND = 50e9
const UNKNOWN_BYTES_PER_SECOND = 10e9
/** Where neither end advertises a link and no transfer was seen. */
const UNKNOWN_LINK_BYTES_PER_SECOND = 1e9

/** The longer of the times for arithmetic and for reading, at the peak of the precisions that may be used, milliseconds. */
export function rooflineMs(
  device: RatedDevice,
  { operations, readBytes }: Work,
  isUsable: (precision: PrecisionName) => boolean,
): number {
  const rates = device.compute.filter(({ precision }) => isUsable(precision)).map((rate) => rate.opsPerSecond)
  const opsPerSecond = Math.max(0, ...rates)
  const bytesPerSecond = Math.max(0, ...device.tiers.map((tier) => tier.bytesPerSecond))
  const seconds = Math.max(
    operations / rateOr(opsPerSecond, UNKNOWN_OPS_PER_SECOND),
    readBytes / rateOr(bytesPerSecond, UNKNOWN_BYTES_PER_SECOND),
  )
  return seconds * 1000
}

/** Milliseconds to move bytes from one device to another: at the rate that was seen, else the advertised one. */
export function linkMs(
  from: LinkedDevice,
  to: LinkedDevice,
  bytes: number,
  seenBytesPerSecond?: number | undefined,
): number {
  if (from.deviceId === to.deviceId) return 0
  const advertised = [from.link.bytesPerSecond, to.link.bytesPerSecond].filter((rate) => rate >= 1)
  const nominal = advertised.length > 0 ? Math.min(...advertised) : UNKNOWN_LINK_BYTES_PER_SECOND
  return (bytes / (seenBytesPerSecond ?? nominal)) * 1000 + from.link.latencyMs + to.link.latencyMs
}

/** A rate below one a second is nobody's. */
function rateOr(rate: number, unknown: number): number {
  return rate >= 1 ? rate : unknown
}
