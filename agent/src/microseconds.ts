/** Milliseconds as whole microseconds, in the form that messages carry. */
export function microseconds(ms: number): bigint {
  return BigInt(Math.round(ms * 1_000))
}
