/**
 * Absent and null mean the same in a request: clients send both.
 */

/** A message of an answer, sent back as it came, carries `refusal: null` and the like. Other values stay as they are. */
export function withoutNulls(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== null))
}
