/**
 * Pairs of a device that prefills and one that decodes, by their predicted time to the last token: wait and
 * prefill, the part of the KV transfer that prefill does not hide, and the decode steps.
 */
import type { AttentionPlan } from './attention-plan.js'
import type { CostModel } from './cost-model.js'
import type { WeighedPair } from './decision.js'
import { kvBytes } from './kv-blocks.js'
import type { LoadedModel } from './loaded-model.js'
import type { PrefixChoice, PrefixPlan } from './prefix-choice.js'

const MUCH_FASTER = 0.25
/** Pairs whose predicted times differ by less than about this share count as equal: the emptier one wins. */
const TIE_SHARE = 0.05
/** Devices of each role that are paired up. */
const PAIRED_MAX = 8

export interface Candidate {
  readonly model: LoadedModel
  /** Time of the prefill, with its wait and nothing fetched, or of one decode step. */
  readonly roleMs: number
}

export interface Decoder extends Candidate {
  readonly attention: AttentionPlan
}

export interface Prefiller extends Candidate {
  readonly plan: PrefixPlan
}

export interface ScoredPair extends WeighedPair {
  readonly prefiller: Prefiller
  readonly decoder: Decoder
  readonly heldByDecodeTokens: number
  readonly decodeSlotsUsed: number
  readonly isDecodeTrusted: boolean
  /** Until decoding begins. */
  readonly startMs: number
  readonly totalMs: number
}

/** The best few. */
export function quickest<T extends Candidate>(candidates: readonly T[]): readonly T[] {
  if (candidates.length <= PAIRED_MAX) return candidates
  return candidates.toSorted((a, b) => a.roleMs - b.roleMs).slice(0, PAIRED_MAX)
}

/** The best few, each with the best way to have the prompt's beginning. */
export function planned(candidates: readonly Candidate[], prefix: PrefixChoice): readonly Prefiller[] {
  return quickest(candidates).map((candidate) => {
    return { ...candidate, plan: prefix.plan(candidate.model) }
  })
}

/** Devices that decode first, could do both, and hold the beginning of the prompt. */
export function holders(
  prefillers: readonly Candidate[],
  decoders: readonly Decoder[],
  prefix: PrefixChoice,
): readonly (Candidate & { readonly decoder: Decoder })[] {
  const found = prefillers.flatMap((candidate) => {
    const { model } = candidate
    if (model.prefers !== 'decode' || prefix.localTokens(model) === 0) return []
    const decoder = decoders.find((other) => other.model === model)
    return decoder ? [{ ...candidate, decoder }] : []
  })
  return quickest(found)
}

/** All pairs, best first. */
export function scorePairs(
  prefillers: readonly Prefiller[],
  decoders: readonly Decoder[],
  input: { readonly prefillTokens: number; readonly answerTokens: number },
  costs: CostModel,
  prefix: PrefixChoice,
): ScoredPair[] {
  const pairs: ScoredPair[] = []
  for (const prefiller of prefillers) {
    const from = prefiller.model.device
    for (const decoder of decoders) {
      const to = decoder.model.device
      const heldByDecodeTokens = from === to ? 0 : prefix.heldTokens(decoder.model)
      const bytes = kvBytes(prefiller.model.facts, input.prefillTokens - heldByDecodeTokens)
      const transferMs = costs.transferMs(from.facts, to.facts, bytes)
      const { prefillMs } = prefiller.plan
      const startMs = prefillMs + exposedMs(prefiller, transferMs)
      pairs.push({
        prefill: from.ref,
        decode: to.ref,
        ttftMs: prefillMs,
        tpotMs: decoder.roleMs,
        prefiller,
        decoder,
        heldByDecodeTokens,
        decodeSlotsUsed: decoder.model.slotsUsed,
        isDecodeTrusted: costs.isTrusted(to.facts, decoder.model.facts, 'decode'),
        startMs,
        totalMs: startMs + (input.answerTokens - 1) * decoder.roleMs,
      })
    }
  }
  return pairs.sort(comparePairs)
}

export function isMuchFaster(pair: ScoredPair, than: ScoredPair): boolean {
  const isTrusted = pair.isDecodeTrusted && than.isDecodeTrusted
  return isTrusted && pair.totalMs < MUCH_FASTER * than.totalMs
}

/** To the last token, and by more than what counts as equal to the beginning, which is what reuse saves. */
export function isFaster(pair: ScoredPair, than: ScoredPair): boolean {
  return pair.totalMs < than.totalMs && pair.startMs * (1 + TIE_SHARE) < than.startMs
}

/** Layer i travels while layer i + 1 computes: what is left is the last layer, or what the link cannot keep up with. */
function exposedMs({ model, plan }: Prefiller, transferMs: number): number {
  const layers = Math.max(1, model.facts.layers)
  return Math.max(transferMs / layers, transferMs - (plan.prefillMs * (layers - 1)) / layers)
}

export function comparePairs(a: ScoredPair, b: ScoredPair): number {
  // Comparing steps of a logarithm keeps the order transitive, which "within 5 %" would not.
  const step = (pair: ScoredPair): number => Math.round(Math.log(pair.totalMs) / Math.log(1 + TIE_SHARE))
  return (
    step(a) - step(b) ||
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
