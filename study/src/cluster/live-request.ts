/** A request that has no outcome yet, as its client sees it. */
import type { Decision } from '@kvasir/coordinator/core/decision'
import type { PrefillFigures } from './epoch-client.js'
import type { KvTimes } from './outgoing-kv.js'
import type { RequestOutcome, VirtualRequest } from './request.js'
import type { VirtualEpoch } from './virtual-epoch.js'

export class LiveRequest {
  epoch: VirtualEpoch | undefined
  prefill: PrefillFigures | undefined
  kv: KvTimes | undefined
  #tokens = 0
  #firstTokenMs = Number.NaN
  #lastTokenMs = Number.NaN
  #placements = 0
  #decision: Decision | undefined

  /** `names`: of the prompt's full blocks, as agents' cores name them. */
  constructor(
    readonly request: VirtualRequest,
    readonly names: readonly string[],
  ) {}

  get tokens(): number {
    return this.#tokens
  }

  placed(decision: Decision): void {
    this.#placements += 1
    this.#decision = decision
  }

  emitted(count: number, nowMs: number): void {
    if (this.#tokens === 0) this.#firstTokenMs = nowMs
    this.#tokens += count
    this.#lastTokenMs = nowMs
  }

  outcome(end: RequestOutcome['end'], code: string, nowMs: number): RequestOutcome {
    const decision = this.#decision
    return {
      request: this.request,
      end,
      code,
      firstTokenMs: this.#firstTokenMs,
      endMs: end === 'finished' && this.#tokens > 0 ? this.#lastTokenMs : nowMs,
      tokens: this.#tokens,
      prefillDevice: decision?.prefill.deviceId ?? '',
      decodeDevice: decision?.decode.deviceId ?? '',
      placements: this.#placements,
      cachedTokens: this.prefill?.contextTokens ?? 0,
      fetchedTokens: this.prefill?.fetchedTokens ?? 0,
      predictedTtftMs: decision?.ttftMs ?? Number.NaN,
      predictedTpotMs: decision?.tpotMs ?? Number.NaN,
      prefillMs: this.prefill?.computeMs ?? Number.NaN,
      exposedMs: this.kv?.exposedMs ?? 0,
      kvBytes: this.kv?.bytes ?? 0,
    }
  }
}
