import type { PrefixMatch } from '../prefix-match.js'

/** Leading blocks of the prompt on the device; 0 where it has not even the first. */
export function blocksOn(match: PrefixMatch, deviceId: string): number {
  return match.longest(0, Number.POSITIVE_INFINITY).find((found) => found.deviceId === deviceId)?.blocks ?? 0
}
