/**
 * What a request's report shows, gathered while it lives.
 */
import { type Decision, explain, filterCounts } from '../core/decision.js'
import type { WaitNote } from '../core/protocol.js'
import type { GenerationRequest, PlacementReport, RequestReport } from '../generation.js'
import { roundMs } from '../round-ms.js'
import { admissionReport } from './admission-report.js'
import { type AttentionSums, addAttention, NO_ATTENTION } from './attention-calls.js'
import type { EpochFigures } from './epoch-figures.js'
import { cachedTokens, prefixReport } from './prefix-report.js'
import { attentionReport, attentionStages, prefixStages } from './stage-reports.js'

/** Placements shown; of a request that moved more often, the newest. */
const PLACEMENTS_MAX = 16

const ENDED: ReadonlySet<RequestReport['state']> = new Set(['finished', 'failed', 'cancelled'])

/** Equal bits on every device that says so. */
const REFERENCE_NUMERICS = 'f32'

/** What the report takes from the request; its prompt need not outlive it. */
type ReportedRequest = Pick<
  GenerationRequest,
  'requestId' | 'model' | 'profile' | 'reusePrefix' | 'retrieval' | 'priority' | 'ttftDeadlineMs'
> & {
  readonly promptTokens: number
}

export class RequestRecord {
  state: RequestReport['state'] = 'queued'
  finishReason: string | null = null
  error: string | null = null
  readonly #request: ReportedRequest
  readonly #traceId: string
  readonly #submittedAtMs: number
  readonly #placements: Decision[] = []
  /** The last placement that gave tokens, how many did, and whether one of them computes its own numbers. */
  #source: Decision | undefined
  #sources = 0
  #mayDiffer = false
  #predicted: { readonly ttftMs: number; readonly tpotMs: number } | null = null
  /** Of the first placement. */
  #wait: WaitNote | undefined
  #placedAtMs: number | null = null
  #firstTokenAtMs: number | null = null
  #lastTokenAtMs: number | null = null
  #kv: KvSums = { bytes: 0, modelledBytes: null, chunks: 0, busyUs: 0, exposedUs: 0 }
  /** Of the last placement. */
  #modelled: RequestReport['modelled'] = []
  /** Of the last epoch that is over. */
  #reuse: EpochFigures['reuse'] = null
  #heldByDecodeTokens = 0
  #reads: EpochFigures['reads'] = []
  #attention: AttentionSums = NO_ATTENTION
  #prefillUs: number | null = null

  constructor(request: GenerationRequest, traceId: string, nowMs: number) {
    const { requestId, model, profile, promptTokens, reusePrefix, retrieval, priority, ttftDeadlineMs } =
      request
    this.#request = {
      ...{ requestId, model, profile, promptTokens: promptTokens.length, reusePrefix, retrieval },
      ...(priority === undefined ? {} : { priority }),
      ttftDeadlineMs,
    }
    this.#traceId = traceId
    this.#submittedAtMs = nowMs
  }

  placed(decision: Decision, wait: WaitNote, modelled: RequestReport['modelled'], nowMs: number): void {
    this.#wait ??= wait
    this.state = 'reserving'
    this.#modelled = modelled
    this.#placements.push(decision)
    if (this.#placements.length > PLACEMENTS_MAX) this.#placements.shift()
    this.#reuse = null
    this.#prefillUs = null
    this.#heldByDecodeTokens = 0
    this.#placedAtMs ??= nowMs
    this.#predicted ??= { ttftMs: roundMs(decision.ttftMs), tpotMs: roundMs(decision.tpotMs) }
  }

  emitted(nowMs: number): void {
    const source = this.#placements.at(-1)
    if (source !== this.#source) {
      this.#source = source
      this.#sources += 1
      this.#mayDiffer ||= source === undefined || !isReproducible(source)
    }
    this.#firstTokenAtMs ??= nowMs
    this.#lastTokenAtMs = nowMs
  }

  /** Adds what an epoch that is over has sent and read. */
  addFigures(figures: EpochFigures): void {
    this.#kv = withFigures(this.#kv, figures)
    this.#reuse = figures.reuse
    this.#heldByDecodeTokens = figures.heldByDecodeTokens
    this.#reads = sumOfReads(this.#reads, figures.reads)
    this.#attention = addAttention(this.#attention, figures.attention ?? NO_ATTENTION)
    this.#prefillUs = figures.prefill?.computeUs ?? null
  }

  /** `running`: figures of the epoch that is not over. */
  report(completionTokens: number, nearTies: number, running?: EpochFigures): RequestReport {
    const kv = running ? withFigures(this.#kv, running) : this.#kv
    const reuse = running?.reuse ?? this.#reuse
    const decision = this.#placements.at(-1)
    const { promptTokens, reusePrefix, retrieval } = this.#request
    const attention = addAttention(this.#attention, running?.attention ?? NO_ATTENTION)
    const since = (atMs: number | null): number | null =>
      atMs === null ? null : roundMs(atMs - this.#submittedAtMs)
    const decodeMs =
      this.#firstTokenAtMs !== null && this.#lastTokenAtMs !== null && completionTokens > 1
        ? (this.#lastTokenAtMs - this.#firstTokenAtMs) / (completionTokens - 1)
        : null
    return {
      requestId: this.#request.requestId,
      traceId: this.#traceId,
      model: this.#request.model,
      profile: this.#request.profile,
      state: this.state,
      placements: this.#placements.map(placementReport),
      promptTokens,
      completionTokens,
      cachedTokens: cachedTokens(promptTokens, reuse),
      numericsChanged: this.#sources > 1 && this.#mayDiffer,
      nearTies,
      admission: admissionReport(this.#request, this.#wait, ENDED.has(this.state)),
      finishReason: this.finishReason,
      error: this.error,
      predicted: this.#predicted,
      measured: {
        queueMs: since(this.#placedAtMs),
        ttftMs: since(this.#firstTokenAtMs),
        tpotMs: decodeMs === null ? null : roundMs(decodeMs),
      },
      kv: {
        bytes: kv.bytes,
        chunks: kv.chunks,
        // A wait for the receiver after prefill can exceed the transfer itself: then nothing was hidden.
        overlap: kv.busyUs > 0 ? Math.max(0, 1 - kv.exposedUs / kv.busyUs) : null,
        bytesPerSecond: kv.busyUs > 0 ? (kv.bytes / kv.busyUs) * 1e6 : null,
        modelledBytes: kv.modelledBytes,
      },
      modelled: this.#modelled,
      prefix: decision
        ? prefixReport({
            promptTokens,
            reusePrefix,
            decision,
            reuse,
            heldByDecodeTokens: running?.heldByDecodeTokens ?? this.#heldByDecodeTokens,
          })
        : null,
      attention: decision ? attentionReport(decision, attention) : null,
      retrieval,
      stages: decision
        ? [
            ...prefixStages(decision, reuse, running?.prefill?.computeUs ?? this.#prefillUs),
            ...(retrieval?.stages ?? []),
            ...attentionStages(decision, attention),
          ]
        : [...(retrieval?.stages ?? [])],
      tierReads: sumOfReads(this.#reads, running?.reads ?? []),
    }
  }
}

/**
 * In `exact` every device computes the same bits, but one with numbers of its own. In other profiles a move may
 * change the text, and so may sums in another order where two devices' attention is merged.
 */
function isReproducible({ profile, numerics, prefillNumerics, attention }: Decision): boolean {
  const isReference = numerics === REFERENCE_NUMERICS && prefillNumerics === REFERENCE_NUMERICS
  return profile === 'exact' && isReference && attention.place !== 'partial'
}

function sumOfReads(before: EpochFigures['reads'], added: EpochFigures['reads']): EpochFigures['reads'] {
  const sums = new Map(before.map((read) => [read.tier, read]))
  for (const { tier, readBytes, movedBytes } of added) {
    const sum = sums.get(tier) ?? { readBytes: 0, movedBytes: 0 }
    sums.set(tier, {
      tier,
      readBytes: sum.readBytes + readBytes,
      movedBytes: sum.movedBytes + movedBytes,
    })
  }
  return [...sums.values()]
}

interface KvSums {
  readonly bytes: number
  readonly modelledBytes: number | null
  readonly chunks: number
  readonly busyUs: number
  readonly exposedUs: number
}

function withFigures(kv: KvSums, { sent, received }: EpochFigures): KvSums {
  // The sender knows more; the receiver's count stands in where the sender was not heard to the end.
  const bytes = sent ?? received
  return {
    bytes: kv.bytes + (bytes?.bytes ?? 0),
    modelledBytes:
      sent?.modelledBytes == null ? kv.modelledBytes : (kv.modelledBytes ?? 0) + sent.modelledBytes,
    chunks: kv.chunks + (bytes?.chunks ?? 0),
    busyUs: kv.busyUs + (sent?.busyUs ?? 0),
    exposedUs: kv.exposedUs + (sent?.exposedUs ?? 0),
  }
}

function placementReport(decision: Decision): PlacementReport {
  return {
    epoch: decision.epoch,
    prefillDevice: decision.prefill.deviceId,
    decodeDevice: decision.decode.deviceId,
    profile: decision.profile,
    numerics: decision.numerics,
    reason: explain(decision),
    weighed: decision.weighed.map(({ prefill, decode, ttftMs, tpotMs }) => ({
      prefillDevice: prefill.deviceId,
      decodeDevice: decode.deviceId,
      ttftMs: roundMs(ttftMs),
      tpotMs: roundMs(tpotMs),
    })),
    filtered: {
      prefill: filterCounts(decision.filtered.prefill),
      decode: filterCounts(decision.filtered.decode),
      attend: filterCounts(decision.filtered.attend),
    },
  }
}
