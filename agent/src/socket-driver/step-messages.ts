/** A step, its asks and its result as messages, on the agent's side. What cannot be is a CorruptDataError. */
import type {
  AttentionUse,
  LoadedModelFacts,
  RemoteAnswer,
  RemoteAttention,
  RemoteQuery,
  SparseAttention,
  StepResult,
  StepSequence,
} from '@kvasir/engine/device-driver'
import { errorOfFailure, failureMessage } from '@kvasir/engine/driver-process/failure-message'
import { partialBytes } from '@kvasir/engine/driver-process/partial-payload'
import { bytesOf, PayloadReader } from '@kvasir/engine/driver-process/payload'
import * as wire from '@kvasir/proto/kvasir/driver/v1/driver'
import { CorruptDataError, InternalError, type KvasirError } from '@kvasir/runtime/errors'
import { answered, type Said } from './driver-connection.js'

const METHODS: Readonly<Record<SparseAttention['method'], wire.SparseMethod>> = {
  'page-bounds': wire.SparseMethod.PAGE_BOUNDS,
  random: wire.SparseMethod.RANDOM,
  recent: wire.SparseMethod.RECENT,
}

const MODES: Readonly<Record<RemoteAttention['mode'], wire.RemoteMode>> = {
  partial: wire.RemoteMode.PARTIAL,
  indices: wire.RemoteMode.INDICES,
}

export function stepMessage(sequences: readonly StepSequence[], reportLayers: boolean): wire.Step {
  return {
    reportLayers,
    sequences: sequences.map(({ blocks, start, tokens, wantLogits, attention, remote, trackPages }) => ({
      blocks: [...blocks],
      start,
      tokens: [...tokens],
      wantLogits,
      trackPages: trackPages === true,
      ...(attention === undefined
        ? {}
        : { attention: { method: METHODS[attention.method], pages: attention.pages, seed: attention.seed } }),
      ...(remote === undefined ? {} : { remote: { pages: remote.pages, mode: MODES[remote.mode] } }),
    })),
  }
}

export interface AskedQuery {
  readonly ask: bigint
  /** Of which sequence, by its place in the batch, and whom. */
  readonly sequence: number
  readonly remote: RemoteAttention
  readonly query: RemoteQuery
}

export function queryOf(
  said: Said,
  sequences: readonly StepSequence[],
  { heads, headDim, kvHeads, layers }: LoadedModelFacts,
): AskedQuery {
  const { ask, sequence, layer, pages } = answered(said, 'ask')
  const remote = sequences[sequence]?.remote
  if (remote === undefined)
    throw new CorruptDataError(`it asked for sequence ${sequence}, for which nobody answers`)
  if (layer >= layers) throw new CorruptDataError(`it asked for layer ${layer} of ${layers}`)
  const payload = new PayloadReader(said.payload)
  const q = payload.floats(heads * headDim)
  const rivals = payload.restFloats()
  if (rivals.length % kvHeads !== 0)
    throw new CorruptDataError(`it asked with ${rivals.length} rivals for ${kvHeads} heads`)
  return { ask, remote, sequence, query: { layer, pages, q, rivals } }
}

export function answerMessage(
  ask: bigint,
  answer: RemoteAnswer,
): { readonly message: wire.Answer; readonly payload: readonly Uint8Array[] } {
  const { pages, partial } = answer
  return {
    message: {
      ask,
      chosen: [...answer.chosen],
      relevancyUs: Math.round(answer.relevancyUs),
      retrievalUs: Math.round(answer.retrievalUs),
      applyUs: Math.round(answer.applyUs),
      wireBytes: BigInt(answer.wireBytes),
    },
    payload: [
      ...(pages === undefined ? [] : [bytesOf(pages)]),
      ...(partial === undefined ? [] : partialBytes(partial)),
    ],
  }
}

export function failedAnswer(ask: bigint, error: KvasirError): wire.Answer {
  return {
    ask,
    chosen: [],
    relevancyUs: 0,
    retrievalUs: 0,
    applyUs: 0,
    wireBytes: 0n,
    failure: failureMessage(error),
  }
}

/** `remoteErrors`: by sequence, as their owners gave them. */
export function stepResultOf(
  said: Said,
  sequences: readonly StepSequence[],
  { vocabularySize }: LoadedModelFacts,
  remoteErrors: ReadonlyMap<number, KvasirError>,
): StepResult {
  const { elapsedUs, cancelled, failed, attention } = answered(said, 'step')
  const payload = new PayloadReader(said.payload)
  const rows = cancelled ? 0 : sequences.filter(({ wantLogits }) => wantLogits).length
  const logits = payload.floats(rows * vocabularySize)
  const uses: (AttentionUse | undefined)[] = sequences.map(() => undefined)
  for (const { sequence, pages, pagesRead, wireBytes, ...times } of attention) {
    const blocks = sequences[sequence]?.blocks
    if (blocks === undefined || uses[sequence] !== undefined) {
      throw new CorruptDataError(
        `it told of the attention of sequence ${sequence}, which is none or was told of`,
      )
    }
    const { prepareUs, relevancyUs, retrievalUs, applyUs, remoteUs } = times
    uses[sequence] = {
      reads: payload.floats(blocks.length),
      mass: payload.floats(blocks.length),
      pages: Number(pages),
      pagesRead: Number(pagesRead),
      wireBytes: Number(wireBytes),
      ...{ prepareUs, relevancyUs, retrievalUs, applyUs, remoteUs },
    }
  }
  payload.end()
  const told = failed.map(({ sequence, failure }) => {
    if (sequences[sequence] === undefined || failure === undefined) {
      throw new CorruptDataError(`it failed sequence ${sequence}, which is none, or did not say why`)
    }
    return { sequence, error: remoteErrors.get(sequence) ?? errorOfFailure(failure) }
  })
  const damaged = cancelled ? [] : damagedSequences(logits, sequences, vocabularySize)
  const found = damaged
    .filter((sequence) => told.every((one) => one.sequence !== sequence))
    .map((sequence) => ({
      sequence,
      error: new InternalError('The device gave logits that are no numbers.'),
    }))
  return { logits, elapsedUs, cancelled, attention: uses, failed: [...told, ...found] }
}

/** Sequences with a NaN among their logits: what it computed for them is worth nothing. */
function damagedSequences(
  logits: Float32Array,
  sequences: readonly StepSequence[],
  vocabularySize: number,
): number[] {
  const wanting = sequences.flatMap(({ wantLogits }, sequence) => (wantLogits ? [sequence] : []))
  return wanting.filter((_, row) =>
    logits.subarray(row * vocabularySize, (row + 1) * vocabularySize).some(Number.isNaN),
  )
}
