/**
 * Those bounds and deadlines of an agent that a study in virtual time keeps too: one definition, so that what is studied is
 * what serves. The shell's others are in agent/src/limits.ts.
 */
export const SHARED_BOUNDS = {
  /** Life of a lease that no stream uses. Long enough for the coordinator's next call, and short since it is how long memory stays lost after a coordinator is. */
  leaseTtlMs: 5_000,
  /** Prefills that wait for memory; more are refused. */
  waitingMax: 64,
  /** How long a Pull waits for its Prefill to be announced. */
  announceMs: 5_000,
  /** How long a computed prompt waits for its Pull. */
  pullMs: 10_000,
  /** Longest silence of whoever cached blocks are fetched from, and longest fetch: then the rest is computed. */
  fetchSilenceMs: 3_000,
  fetchMs: 30_000,
  /** KV bytes that left the cache and wait to be taken over by the host tier, and how long they wait. */
  stagingBytesMin: 64 * 2 ** 20,
  stagingBytesMax: 4 * 2 ** 30,
  stagingMs: 10_000,
} as const

/** What one long prompt drives out of the cache at once is mostly less than this share of it. */
const STAGING_SHARE = 1 / 16

/** Room for KV bytes that leave a cache of `cacheBytes`. */
export function stagingBytes(
  cacheBytes: number,
  { stagingBytesMin, stagingBytesMax }: Record<'stagingBytesMin' | 'stagingBytesMax', number> = SHARED_BOUNDS,
): number {
  return Math.min(Math.max(cacheBytes * STAGING_SHARE, stagingBytesMin), stagingBytesMax)
}
