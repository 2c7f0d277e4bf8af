/** The kernels' calls as messages, on the agent's side. What cannot be is a CorruptDataError. */
import type { LoadedModelFacts } from '@kvasir/engine/device-driver'
import { partialFrom } from '@kvasir/engine/driver-process/partial-payload'
import { copiedBytesOf, PayloadReader } from '@kvasir/engine/driver-process/payload'
import type {
  AttentionKernelName,
  KernelInput,
  KernelName,
  KernelOutput,
  SearchKernelName,
} from '@kvasir/engine/kernels'
import { CorruptDataError, InvalidInputError } from '@kvasir/runtime/errors'
import { answered, type Request, readDone, type Said } from './driver-connection.js'

interface KernelRequest<Name extends KernelName> {
  readonly request: Request
  readonly payload?: readonly Uint8Array[]
  readonly read: (said: Said) => KernelOutput<Name>
}

/** Throw InvalidInputError for sizes that no message can carry. */
type AttentionKernels = {
  readonly [Name in AttentionKernelName]: (
    input: KernelInput<Name>,
    facts: LoadedModelFacts,
  ) => KernelRequest<Name>
}
type SearchKernels = {
  readonly [Name in SearchKernelName]: (input: KernelInput<Name>) => KernelRequest<Name>
}

export const ATTENTION_KERNELS: AttentionKernels = {
  'page-bounds': ({ layer, blocks }, { kvHeads, headDim }) => ({
    request: { $case: 'pageBounds', value: { layer, blocks: [...blocks] } },
    read: (said) => doneFloats(said, blocks.length * kvHeads * 2 * headDim),
  }),
  'page-scores': ({ layer, q, blocks }, facts) => ({
    request: { $case: 'pageScores', value: { layer, blocks: [...blocks] } },
    payload: [queryBytes(q, facts)],
    read: (said) => doneFloats(said, facts.kvHeads * blocks.length),
  }),
  'top-k': ({ values, rows, k }) => {
    if (!isCount(rows) || rows === 0 || !isCount(k) || values.length % rows !== 0) {
      throw new InvalidInputError(
        `top-k takes whole rows and a number of columns, not ${values.length} values, ${rows} rows and ${k}.`,
      )
    }
    return {
      request: { $case: 'topK', value: { rows, k } },
      payload: [copiedBytesOf(values)],
      read: (said) => {
        answered(said, 'done')
        const payload = new PayloadReader(said.payload)
        const columns = payload.words(rows * Math.min(k, values.length / rows))
        payload.end()
        return columns
      },
    }
  },
  'partial-attention': ({ layer, q, blocks }, facts) => {
    const heads = blocks.map((own) => ({ blocks: [...own] }))
    return {
      request: { $case: 'partialAttention', value: { layer, heads } },
      payload: [queryBytes(q, facts)],
      read: (said) => {
        answered(said, 'done')
        const payload = new PayloadReader(said.payload)
        const partial = partialFrom(payload, facts)
        payload.end()
        return partial
      },
    }
  },
  'choose-pages': ({ layer, q, blocks, pages, rivals, attend }, facts) => {
    if (!isCount(pages))
      throw new InvalidInputError(`choose-pages wants a number of pages, 0 for all, not ${pages}.`)
    return {
      request: { $case: 'choosePages', value: { layer, blocks: [...blocks], pages, attend } },
      payload: [queryBytes(q, facts), copiedBytesOf(rivals)],
      read: (said) => {
        const { counts, relevancyUs, retrievalUs, applyUs } = answered(said, 'chosen')
        const payload = new PayloadReader(said.payload)
        if (counts.length !== facts.kvHeads) {
          throw new CorruptDataError(`it chose pages for ${counts.length} heads of ${facts.kvHeads}`)
        }
        const chosen = counts.map((count) => payload.words(count))
        if (chosen.some((own) => own.some((page) => page >= blocks.length))) {
          throw new CorruptDataError('it chose a page that it was not given')
        }
        const partial = attend ? partialFrom(payload, facts) : undefined
        const mass = attend ? counts.map((count) => payload.floats(count)) : undefined
        payload.end()
        return { chosen, partial, mass, relevancyUs, retrievalUs, applyUs }
      },
    }
  },
}

export const SEARCH_KERNELS: SearchKernels = {
  'bm25-load': ({ key, shard }) => ({
    request: { $case: 'bm25Load', value: { key } },
    payload: [shard],
    read: (said) => Number(answered(said, 'shardLoaded').bytes),
  }),
  'bm25-unload': ({ key }) => ({
    request: { $case: 'bm25Unload', value: { key } },
    read: (said) => readDone(said) as undefined,
  }),
  'bm25-search': ({ key, terms, weights, meanLength, k }) => {
    if (terms.length !== weights.length || !isCount(k)) {
      throw new InvalidInputError(
        `A search has a weight for each term and a number of documents, not ${weights.length} for ${terms.length} terms and ${k}.`,
      )
    }
    return {
      request: { $case: 'bm25Search', value: { key, meanLength, k } },
      payload: [copiedBytesOf(weights), copiedBytesOf(terms)],
      read: (said) => {
        const { count, relevancyUs, retrievalUs } = answered(said, 'found')
        if (count > k) throw new CorruptDataError(`it found ${count} documents where ${k} were wanted`)
        const payload = new PayloadReader(said.payload)
        const scores = payload.doubles(count)
        const documents = payload.words(count)
        payload.end()
        return { documents, scores, relevancyUs, retrievalUs }
      },
    }
  },
}

function doneFloats(said: Said, count: number): Float32Array {
  answered(said, 'done')
  const payload = new PayloadReader(said.payload)
  const floats = payload.floats(count)
  payload.end()
  return floats
}

function queryBytes(q: Float32Array, { heads, headDim }: LoadedModelFacts): Uint8Array {
  if (q.length === heads * headDim) return copiedBytesOf(q)
  throw new InvalidInputError(`A query has ${heads * headDim} numbers, not ${q.length}.`)
}

function isCount(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < 2 ** 32
}
