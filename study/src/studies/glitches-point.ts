/** One workload on one machine of the GLITCHES study, replayed through both cores until its throughput is steady. */
import { loadCatalogue } from '@kvasir/catalogue/load-catalogue'
import type { RequestOutcome, VirtualRequest } from '../cluster/request.js'
import { VirtualCluster } from '../cluster/virtual-cluster.js'
import { mean } from '../statistics.js'
import type { Workload } from './glitches-closed-form.js'
import { type SystemName, type SystemOptions, systemPlan } from './glitches-systems.js'

export interface GlitchesPoint {
  readonly seed: number
  readonly catalogueFiles: readonly string[]
  readonly system: SystemName
  readonly options: SystemOptions
  readonly workload: Workload
  readonly decodeAssist: boolean
  readonly requests: number
  /** Between two requests; 0: all are there from the beginning, so that no device ever waits for work. */
  readonly everyMs: number
}

export interface GlitchesMeasure {
  readonly tokensPerS: number
  /** Joules a token, idle devices included; NaN where the catalogue lacks a power. */
  readonly energyPerTokenJ: number
  /** Requests that the GPU decoded itself, of all. */
  readonly gpuDecodedShare: number
  /**
   * Of requests whose KV was sent, means: prefill, and how long after it the last KV came; the share of the time that the
   * transfer takes alone which prefill hid.
   */
  readonly prefillMs: number
  readonly exposedMs: number
  readonly overlap: number
}

/** Nobody waits for an answer here: what counts is how much is done. */
const FOREVER_MS = 1e9
/** By then every device has said what it is. */
const HEARD_MS = 1_000

export function point(input: GlitchesPoint): GlitchesMeasure {
  const catalogue = loadCatalogue(input.catalogueFiles)
  const outcomes: RequestOutcome[] = []
  const plan = systemPlan(catalogue, input.system, input.options)
  const cluster = new VirtualCluster(plan, {
    seed: input.seed,
    onOutcome: (outcome) => outcomes.push(outcome),
    limits: {
      queuedMax: input.requests,
      placementDeadlineMs: FOREVER_MS,
      requestDeadlineMs: FOREVER_MS,
      policy: { decodeAssist: input.decodeAssist },
    },
  })
  const summary = cluster.run(requestsOf(input))
  const lost = outcomes.find(({ end }) => end !== 'finished')
  if (lost) throw new Error(`${lost.request.requestId} ended as ${lost.end} ${lost.code}`)

  const sent = outcomes.filter(({ kvBytes }) => kvBytes > 0)
  const joules = summary.devices.reduce((sum, { energyJ }) => sum + energyJ, 0)
  const tokens = outcomes.reduce((sum, outcome) => sum + outcome.tokens, 0)
  const gpuDecoded = outcomes.filter(({ decodeDevice }) => decodeDevice.startsWith('gpu'))
  // Where no KV is sent, no time is.
  const meanSent = (of: (outcome: RequestOutcome) => number) => (sent.length === 0 ? 0 : mean(sent.map(of)))
  const prefillMs = meanSent((outcome) => outcome.prefillMs)
  const exposedMs = meanSent((outcome) => outcome.exposedMs)
  const linkBytesPerSecond = plan.machines[0]?.devices[0]?.link.bytesPerSecond ?? Number.NaN
  const transferMs = meanSent(({ kvBytes }) => (kvBytes * 1e3) / linkBytesPerSecond)
  return {
    tokensPerS: steadyTokensPerS(outcomes),
    energyPerTokenJ: joules / tokens,
    gpuDecodedShare: gpuDecoded.length / outcomes.length,
    prefillMs,
    exposedMs,
    overlap: Math.max(0, 1 - exposedMs / transferMs),
  }
}

function* requestsOf({ workload, requests, everyMs }: GlitchesPoint): Iterable<VirtualRequest> {
  for (let index = 0; index < requests; index += 1) {
    yield {
      requestId: `r${index}`,
      arrivalMs: HEARD_MS + index * everyMs,
      promptTokens: workload.inputTokens,
      outputTokens: workload.outputTokens,
      blocks: [],
    }
  }
}

/**
 * Tokens a second after the first fifth of the requests has begun and before the last has: neither the time in which
 * devices fill nor that in which they run empty. Each device counts from one end of a request to another, since
 * devices that began together end together, and a window that cuts through requests would count one round too many or
 * too few.
 */
export function steadyTokensPerS(outcomes: readonly RequestOutcome[]): number {
  const begins = outcomes.map(({ firstTokenMs }) => firstTokenMs).sort((a, b) => a - b)
  const from = begins[Math.floor(begins.length / 5)] ?? Number.NaN
  const to = begins.at(-1) ?? Number.NaN
  const devices = new Map<string, RequestOutcome[]>()
  for (const outcome of outcomes) {
    if (outcome.endMs < from || outcome.endMs > to) continue
    const ended = devices.get(outcome.decodeDevice) ?? []
    devices.set(outcome.decodeDevice, [...ended, outcome])
  }
  let tokensPerS = 0
  for (const ended of devices.values()) {
    ended.sort((a, b) => a.endMs - b.endMs)
    const [first, last] = [ended[0], ended.at(-1)]
    if (!first || !last || first === last) continue
    const tokens = ended.slice(1).reduce((sum, outcome) => sum + outcome.tokens, 0)
    tokensPerS += (tokens * 1e3) / (last.endMs - first.endMs)
  }
  return tokensPerS
}
