/**
 * Ideal times from what devices advertise: what a device could do at its rated peak, and what a link
 * could carry. Who predicts with them divides by the efficiency that was measured.
 */
import type { DeviceFacts } from './facts.js'

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

/** The longer of the times for arithmetic and for reading, at rates as `peakOps` and `peakBytes` give them, milliseconds. */
export function rooflineMs(
  opsPerSecond: number,
  bytesPerSecond: number,
  operations: number,
  readBytes: number,
): number {
  return Math.max(operations / opsPerSecond, readBytes / bytesPerSecond) * 1000
}

/** Peak of the device in f32 alone, or in the fastest precision that it has. */
export function peakOps(rates: RatedDevice['compute'], isAnyUsable: boolean): number {
  let peak = 0
  for (const { precision, opsPerSecond } of rates) {
    if ((isAnyUsable || precision === 'f32') && opsPerSecond > peak) peak = opsPerSecond
  }
  return peak >= 1 ? peak : UNKNOWN_OPS_PER_SECOND
}

/** Peak of the fastest tier. */
export function peakBytes(tiers: RatedDevice['tiers']): number {
  let peak = 0
  for (const { bytesPerSecond } of tiers) if (bytesPerSecond > peak) peak = bytesPerSecond
  return peak >= 1 ? peak : UNKNOWN_BYTES_PER_SECOND
}

/** Of work in f32, milliseconds. */
export function f32WorkMs({ compute, tiers }: RatedDevice, { operations, readBytes }: Work): number {
  return rooflineMs(peakOps(compute, false), peakBytes(tiers), operations, readBytes)
}

/** Milliseconds to move bytes from one device to another: at the rate that was seen, else the advertised one. */
export function linkMs(
  from: LinkedDevice,
  to: LinkedDevice,
  bytes: number,
  seenBytesPerSecond?: number | undefined,
): number {
  if (from.deviceId === to.deviceId) return 0
  const nominal = Math.min(linkRate(from), linkRate(to))
  const rate = seenBytesPerSecond ?? (Number.isFinite(nominal) ? nominal : UNKNOWN_LINK_BYTES_PER_SECOND)
  return (bytes / rate) * 1000 + from.link.latencyMs + to.link.latencyMs
}

/**
 * Of a time that was seen for moving bytes, what the bytes took: without the latency that `linkMs` adds to them again. At
 * least half, so that a latency that is advertised too high does not make the rate seem boundless.
 */
export function movingMs(seenMs: number, latencyMs: number): number {
  return Math.max(seenMs - latencyMs, seenMs / 2)
}

/** A rate below one a second is nobody's: such a link is as fast as the other end's. */
function linkRate({ link }: LinkedDevice): number {
  return link.bytesPerSecond >= 1 ? link.bytesPerSecond : Number.POSITIVE_INFINITY
}
