/**
 * Pairs of a device that prefills and one that decodes, by their predicted time to the last token: wait and
 * prefill, the part of the KV transfer that prefill does not hide, and the decode steps.
 */
import { BestFew } from './best-few.js'
import type { CostModel } from './cost-model.js'
import { PAIRS_KEPT, type WeighedPair } from './decision.js'
import { kvBytes } from './kv-blocks.js'
import type { LoadedModel } from './loaded-model.js'
import type { PrefixChoice } from './prefix-choice.js'

const MUCH_FASTER = 0.25
/** Pairs whose predicted times differ by less than about this share count as equal: the emptier one wins. */
const TIE_SHARE = 0.05
const TIE_LOG = Math.log(1 + TIE_SHARE)
/** Devices of each role that are paired up. */
export const PAIRED_MAX = 8

export interface Candidate {
  readonly model: LoadedModel
  /** Time of the prefill, with its wait and nothing fetched, or of one decode step. */
  readonly roleMs: number
}

export interface Decoder extends Candidate {
  /** Whether another device attends for it. */
  readonly isOffloaded: boolean
}

export interface Prefiller extends Candidate {
  /** With the best way to have the prompt's beginning. */
  readonly prefillMs: number
}

export interface ScoredPair extends WeighedPair {
  readonly prefiller: Prefiller
  readonly decoder: Decoder
  readonly heldByDecodeTokens: number
  readonly decodeSlotsUsed: number
  /** Until decoding begins. */
  readonly startMs: number
  readonly totalMs: number
  /** Of `totalMs`: pairs on one step count as equal. */
  readonly step: number
}

/** The best few candidates of a role. */
export function quickest<T extends Candidate>(candidates: readonly T[]): readonly T[] {
  const few = new BestFew<T>(PAIRED_MAX)
  for (const candidate of candidates) few.add(candidate, candidate.roleMs, candidate.model.device.row)
  return few.items
}

export function planned(candidates: readonly Candidate[], prefix: PrefixChoice): readonly Prefiller[] {
  return candidates.map(({ model, roleMs }) => ({ model, roleMs, prefillMs: prefix.prefillMs(model) }))
}

/** The best PAIRS_KEPT of all pairs, best first. */
export function scorePairs(
  prefillers: readonly Prefiller[],
  decoders: readonly Decoder[],
  input: { readonly prefillTokens: number; readonly answerTokens: number },
  costs: CostModel,
  prefix: PrefixChoice,
): ScoredPair[] {
  const best: ScoredPair[] = []
  for (const decoder of decoders) {
    const to = decoder.model.device
    const heldTokens = prefix.heldTokens(decoder.model)
    for (const prefiller of prefillers) {
      const from = prefiller.model.device
      const heldByDecodeTokens = from === to ? 0 : heldTokens
      const bytes = kvBytes(prefiller.model.facts, input.prefillTokens - heldByDecodeTokens)
      const { prefillMs } = prefiller
      const startMs = prefillMs + exposedMs(prefiller, costs.transferMs(from.facts, to.facts, bytes))
      const totalMs = startMs + (input.answerTokens - 1) * decoder.roleMs
      // Comparing steps of a logarithm keeps the order transitive, which "within 5 %" would not.
      const step = Math.round(Math.log(totalMs) / TIE_LOG)
      const last = best[PAIRS_KEPT - 1]
      if (last && isBehind(step, decoder.model.slotsUsed, totalMs, last)) continue
      insert(best, {
        prefill: from.ref,
        decode: to.ref,
        ttftMs: prefillMs,
        tpotMs: decoder.roleMs,
        prefiller,
        decoder,
        heldByDecodeTokens,
        decodeSlotsUsed: decoder.model.slotsUsed,
        startMs,
        totalMs,
        step,
      })
    }
  }
  return best
}

/** As `comparePairs`, of a pair that need not be made where it is not kept. */
function isBehind(step: number, decodeSlotsUsed: number, totalMs: number, last: ScoredPair): boolean {
  if (step !== last.step) return step > last.step
  if (decodeSlotsUsed !== last.decodeSlotsUsed) return decodeSlotsUsed > last.decodeSlotsUsed
  return totalMs > last.totalMs
}

function insert(best: ScoredPair[], pair: ScoredPair): void {
  let at = best.length
  while (at > 0 && comparePairs(pair, best[at - 1] ?? pair) < 0) at -= 1
  best.splice(at, 0, pair)
  if (best.length > PAIRS_KEPT) best.pop()
}

/** Whether both predictions can be trusted and one is for a fraction of the time of the other. */
export function isMuchFaster(pair: ScoredPair, than: ScoredPair, costs: CostModel): boolean {
  const isTrusted = [pair, than].every(({ decoder: { model } }) => {
    return costs.isTrusted(model.device.facts, model.facts, 'decode')
  })
  return isTrusted && pair.totalMs < MUCH_FASTER * than.totalMs
}

/**
 * Whether no pair with one of these decoders can be much faster: each takes at least the quickest prefill, and
 * `leastStepMs` for every token after the first.
 */
export function cannotBeMuchFaster(
  prefillers: readonly Prefiller[],
  leastStepMs: number,
  answerTokens: number,
  than: ScoredPair,
): boolean {
  const leastPrefillMs = Math.min(...prefillers.map(({ prefillMs }) => prefillMs))
  return leastPrefillMs + (answerTokens - 1) * leastStepMs >= MUCH_FASTER * than.totalMs
}

/** To the last token, and by more than what counts as equal to the beginning, which is what reuse saves. */
export function isFaster(pair: ScoredPair, than: ScoredPair): boolean {
  return pair.totalMs < than.totalMs && pair.startMs * (1 + TIE_SHARE) < than.startMs
}

/** Layer i travels while layer i + 1 computes: what is left is the last layer, or what the link cannot keep up with. */
function exposedMs({ model, prefillMs }: Prefiller, transferMs: number): number {
  const layers = Math.max(1, model.facts.layers)
  return Math.max(transferMs / layers, transferMs - (prefillMs * (layers - 1)) / layers)
}

export function comparePairs(a: ScoredPair, b: ScoredPair): number {
  return (
    a.step - b.step ||
    a.decodeSlotsUsed - b.decodeSlotsUsed ||
    a.totalMs - b.totalMs ||
    compareText(a.prefill.deviceId, b.prefill.deviceId) ||
    compareText(a.decode.deviceId, b.decode.deviceId)
  )
}

function compareText(a: string, b: string): number {
  if (a === b) return 0
  return a < b ? -1 : 1
}
