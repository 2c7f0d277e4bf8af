/** Microseconds are as fine as any time that is reported is meant. */
export function roundMs(ms: number): number {
  return Math.round(ms * 1000) / 1000
}
