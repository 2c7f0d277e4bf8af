/**
 * Bounds and deadlines of an agent (I2). Tests shorten some of them.
 */
import { PREFILL_CHUNK_TOKENS, STEP_ROWS_MAX } from '@kvasir/engine/limits'
import { SHARED_BOUNDS } from './core/shared-bounds.js'

export interface AgentLimits {
  /** Life of a lease that no stream uses. Long enough for the coordinator's next call, and short since it is how long memory stays lost after a coordinator is. */
  readonly leaseTtlMs: number
  /** Prefills that wait for memory; more are refused. */
  readonly waitingMax: number
  /** Most rows of a prefill chunk while nothing decodes, and while decodes share the step (fewer where a row costs much). */
  readonly chunkTokens: number
  readonly sharedChunkTokens: number
  readonly rowsMax: number
  /** Longest step: a device that takes longer hangs. */
  readonly stepMs: number
  /** Tokens kept for a consumer that does not read; beyond it its sequence ends. */
  readonly outboxTokensMax: number
  /** How long a Pull waits for its Prefill to be announced. */
  readonly announceMs: number
  /** How long a computed prompt waits for its Pull. */
  readonly pullMs: number
  /** Longest silence of a source, its prefill queue included. */
  readonly silenceMs: number
  /** Longest silence of whoever pushes. */
  readonly pushSilenceMs: number
  /** How long a chunk that was handed over waits for its acknowledgement. */
  readonly acknowledgeMs: number
  /** KV bytes under way to this device, for each transfer. */
  readonly windowBytes: number
  /** Longest silence of whoever cached blocks are fetched from, and longest fetch: then the rest is computed. */
  readonly fetchSilenceMs: number
  readonly fetchMs: number
  /** Cached blocks sent to so many others at a time; more are refused. */
  readonly cachedPullsMax: number
  /** KV bytes that left the cache and wait to be taken over by the host tier (a share of it), and how long they wait. */
  readonly stagingBytesMin: number
  readonly stagingBytesMax: number
  readonly stagingMs: number
  /** How long an Offer may take, and how long none is made after one failed. */
  readonly offerMs: number
  readonly offerRestMs: number
  /** How long another device has to answer one attention query of a decoding sequence. */
  readonly attendMs: number
}

export const AGENT_LIMITS: AgentLimits = {
  ...SHARED_BOUNDS,
  chunkTokens: PREFILL_CHUNK_TOKENS,
  sharedChunkTokens: 64,
  rowsMax: STEP_ROWS_MAX,
  stepMs: 300_000,
  outboxTokensMax: 4_096,
  silenceMs: 120_000,
  pushSilenceMs: 10_000,
  acknowledgeMs: 30_000,
  windowBytes: 16 << 20,
  cachedPullsMax: 16,
  offerMs: 2_000,
  offerRestMs: 1_000,
  attendMs: 2_000,
}
