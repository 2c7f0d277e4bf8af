/** A step and its asks as messages, on the driver's side. */
import * as wire from '@kvasir/proto/kvasir/driver/v1/driver'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type {
  LoadedModelFacts,
  RemoteAnswer,
  RemoteAttention,
  RemoteQuery,
  SparseAttention,
  StepResult,
  StepSequence,
} from '../device-driver.js'
import { failureMessage } from './failure-message.js'
import { partialFrom } from './partial-payload.js'
import { bytesOf, type PayloadReader } from './payload.js'

/** Asks for the sequence at a place in the batch. */
export type AskOf = (sequence: number, query: RemoteQuery) => Promise<RemoteAnswer>

/** Throws InvalidInputError for a method or mode that is none. */
export function stepSequencesOf({ sequences }: wire.Step, ask: AskOf): StepSequence[] {
  return sequences.map(({ blocks, start, tokens, wantLogits, attention, remote, trackPages }, place) => ({
    blocks: Uint32Array.from(blocks),
    start,
    tokens: Uint32Array.from(tokens),
    wantLogits,
    ...(attention === undefined ? {} : { attention: sparseAttentionOf(attention) }),
    ...(remote === undefined
      ? {}
      : {
          remote: { pages: remote.pages, mode: remoteModeOf(remote.mode), ask: (query) => ask(place, query) },
        }),
    ...(trackPages ? { trackPages } : {}),
  }))
}

export function askMessage(
  ask: bigint,
  sequence: number,
  { layer, pages, q, rivals }: RemoteQuery,
): { readonly message: wire.Ask; readonly payload: readonly Uint8Array[] } {
  return { message: { ask, sequence, layer, pages }, payload: [bytesOf(q), bytesOf(rivals)] }
}

/** Throws CorruptDataError where the payload is of another size. */
export function remoteAnswerOf(
  answer: wire.Answer,
  payload: PayloadReader,
  mode: RemoteAttention['mode'],
  facts: LoadedModelFacts,
): RemoteAnswer {
  const { chosen, relevancyUs, retrievalUs, applyUs, wireBytes } = answer
  const found =
    mode === 'partial'
      ? { partial: partialFrom(payload, facts) }
      : { pages: payload.words(chosen.reduce((sum, count) => sum + count, 0)) }
  payload.end()
  return {
    chosen: Uint32Array.from(chosen),
    ...found,
    relevancyUs,
    retrievalUs,
    applyUs,
    wireBytes: Number(wireBytes),
  }
}

export function stepResultMessage(result: StepResult): {
  readonly message: wire.StepResult
  readonly payload: readonly Uint8Array[]
} {
  const attention: wire.AttentionUse[] = []
  const payload = [bytesOf(result.logits)]
  for (const [sequence, use] of result.attention.entries()) {
    if (use === undefined) continue
    attention.push({
      sequence,
      pages: BigInt(use.pages),
      pagesRead: BigInt(use.pagesRead),
      prepareUs: Math.round(use.prepareUs),
      relevancyUs: Math.round(use.relevancyUs),
      retrievalUs: Math.round(use.retrievalUs),
      applyUs: Math.round(use.applyUs),
      remoteUs: Math.round(use.remoteUs),
      wireBytes: BigInt(use.wireBytes),
    })
    payload.push(bytesOf(use.reads), bytesOf(use.mass))
  }
  const failed = result.failed.map(({ sequence, error }) => ({ sequence, failure: failureMessage(error) }))
  const { cancelled } = result
  return { message: { elapsedUs: Math.round(result.elapsedUs), cancelled, failed, attention }, payload }
}

const METHODS: Readonly<Partial<Record<wire.SparseMethod, SparseAttention['method']>>> = {
  [wire.SparseMethod.PAGE_BOUNDS]: 'page-bounds',
  [wire.SparseMethod.RANDOM]: 'random',
  [wire.SparseMethod.RECENT]: 'recent',
}

function sparseAttentionOf({ method, pages, seed }: wire.SparseAttention): SparseAttention {
  const known = METHODS[method]
  if (known === undefined) throw new InvalidInputError(`${method} is no way of choosing pages.`)
  return { method: known, pages, seed }
}

function remoteModeOf(mode: wire.RemoteMode): RemoteAttention['mode'] {
  if (mode === wire.RemoteMode.PARTIAL) return 'partial'
  if (mode === wire.RemoteMode.INDICES) return 'indices'
  throw new InvalidInputError(`${mode} is no mode of remote attention.`)
}
