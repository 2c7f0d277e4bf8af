/**
 * Names one life of one agent process.
 *
 * Later lives have larger numbers, so that a lease of an earlier life is told from one of
 * a later. Two lives that start within a millisecond differ in the low digits.
 */
import { randomInt } from 'node:crypto'

/** Wall milliseconds × 1,000, plus a number that tells lives of one millisecond apart. */
export function newIncarnation(wallMs: number): bigint {
  return BigInt(Math.floor(wallMs)) * 1_000n + BigInt(randomInt(1_000))
}
