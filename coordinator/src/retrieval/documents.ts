/**
 * The texts of documents by number, from their owner.
 *
 * Documents may be large: they are asked for in batches, and a batch that is too large for one message is
 * halved. What comes of one search is bounded, since it is held in memory until it has been sent.
 */
import type {
  CorpusRef,
  CorpusServiceClient,
  Document,
  ScoredDocument,
} from '@kvasir/proto/kvasir/memory/v1/corpus'
import { InvalidInputError, KvasirError } from '@kvasir/runtime/errors'
import { callUnary } from '@kvasir/runtime/rpc-client'
import type { FoundDocument } from './corpus-reports.js'

const TIMEOUT_MS = 10_000
const BATCH_DOCUMENTS = 100
/** UTF-16 units of all texts together. */
const CHARACTERS_MAX = 64 * 1024 * 1024

/** Throws what the owner throws; InvalidInputError where the documents are too large together. */
export async function fetchDocuments(
  client: CorpusServiceClient,
  corpus: CorpusRef,
  version: bigint,
  best: readonly ScoredDocument[],
  signal: AbortSignal,
): Promise<readonly FoundDocument[]> {
  const found: FoundDocument[] = []
  let characters = 0
  for (let from = 0; from < best.length; from += BATCH_DOCUMENTS) {
    const batch = best.slice(from, from + BATCH_DOCUMENTS)
    const documents = await fetchBatch(client, corpus, version, batch, signal)
    for (const [index, { id, title, text }] of documents.entries()) {
      characters += title.length + text.length
      if (characters > CHARACTERS_MAX) {
        throw new InvalidInputError(
          'The documents found are larger than 64 MiB together. Ask for fewer, with a smaller "k".',
          { param: 'k' },
        )
      }
      found.push({ id, title, text, score: batch[index]?.score ?? 0 })
    }
  }
  return found
}

async function fetchBatch(
  client: CorpusServiceClient,
  corpus: CorpusRef,
  version: bigint,
  batch: readonly ScoredDocument[],
  signal: AbortSignal,
): Promise<readonly Document[]> {
  try {
    const numbers = batch.map(({ document }) => document)
    const request = { corpus, version, documents: numbers }
    return (await callUnary(client, 'documents', request, { timeoutMs: TIMEOUT_MS, signal })).documents
  } catch (thrown) {
    if (batch.length === 1 || !isTooLarge(KvasirError.from(thrown))) throw thrown
    const middle = Math.ceil(batch.length / 2)
    const first = await fetchBatch(client, corpus, version, batch.slice(0, middle), signal)
    return [...first, ...(await fetchBatch(client, corpus, version, batch.slice(middle), signal))]
  }
}

/** Refused by the owner, which bounds an answer, or by the transport, which bounds a message. */
function isTooLarge({ code, param }: KvasirError): boolean {
  return code === 'internal' || (code === 'invalid_input' && param === 'documents')
}
