/** Picks the pair of devices for a request among those that the filters leave. */
import type { Candidates } from '../candidates.js'
import type { CostModel } from '../cost-model.js'
import type { DecodeRule, PrefillRule } from '../decision.js'
import type { Decoder, Prefiller, ScoredPair } from '../pairs.js'
import type { PrefixChoice } from '../prefix-choice.js'
import type { PickName } from './policy-names.js'

export interface PickBoard {
  readonly candidates: Candidates
  readonly prefix: PrefixChoice
  readonly costs: CostModel
  /** Decode steps that are weighed. */
  readonly answerTokens: number
  /** The client asked for another device to attend. */
  readonly isOffloadAsked: boolean
  /** Counts requests. */
  readonly turn: number
  /** Pairs by their predicted time, best first. */
  score(prefillers: readonly Prefiller[], decoders: readonly Decoder[]): ScoredPair[]
}

export interface Picked {
  /** The chosen pair and those that it was weighed against; empty where there is none. */
  readonly ranked: readonly ScoredPair[]
  readonly prefillRule: PrefillRule
  readonly decodeRule: DecodeRule
}

export interface PickPolicy {
  readonly name: PickName | 'given'
  pick(board: PickBoard): Picked
}
