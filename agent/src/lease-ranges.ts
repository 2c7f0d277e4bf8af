/**
 * Which numbers the leases of each model of one incarnation have: a range each, so that a lease tells whose it is.
 *
 * A place counts the models that an incarnation has served, from 0.
 */

/** Leases that one model can issue in the life of an agent. */
const LEASES_PER_MODEL = 1n << 40n

/** The number before the first lease of a place. */
export function leaseCountersFrom(place: number): bigint {
  return BigInt(place) * LEASES_PER_MODEL
}

/** Of a counter from 1 on. */
export function placeOfLease(counter: bigint): number {
  return Number((counter - 1n) / LEASES_PER_MODEL)
}
