/**
 * Checks what comes to CorpusService about shards, on the owner of a corpus and on devices that hold its
 * shards alike. Every fault names its field.
 */
import { type Bm25Query, checkQuery } from '@kvasir/engine/bm25/bm25'
import type { CorpusRef, RetrieveRequest, Shard } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { InvalidInputError } from '@kvasir/runtime/errors'

export interface CheckedShard {
  readonly corpus: CorpusRef
  /** Tells corpora of all tenants apart. */
  readonly corpusKey: string
  readonly version: bigint
  readonly range: { readonly firstDocument: number; readonly documentCount: number }
  /** Tells all shards of all versions of all corpora apart. */
  readonly key: string
}

export function checkedShard(shard: Shard | undefined, message: string): CheckedShard {
  if (shard === undefined) throw missing(`${message}.shard`, 'shard')
  const { version, firstDocument, documentCount } = shard
  const { corpus, corpusKey } = checkedCorpus(shard.corpus, `${message}.shard`)
  if (version === 0n) throw missing(`${message}.shard.version`, 'version')
  if (documentCount === 0) throw missing(`${message}.shard.document_count`, 'document_count')
  const key = `${corpusKey}/${version}/${firstDocument}+${documentCount}`
  return { corpus, corpusKey, version, range: { firstDocument, documentCount }, key }
}

export function checkedCorpus(
  corpus: CorpusRef | undefined,
  message: string,
): { readonly corpus: CorpusRef; readonly corpusKey: string } {
  if (corpus === undefined) throw missing(`${message}.corpus`, 'corpus')
  if (corpus.name === '') throw missing(`${message}.corpus.name`, 'name')
  return { corpus, corpusKey: `${Buffer.from(corpus.tenantSalt).toString('hex')}/${corpus.name}` }
}

export function checkedQuery({ terms, meanLength, k }: RetrieveRequest): Bm25Query {
  const query = {
    terms: Uint32Array.from(terms, ({ term }) => term),
    weights: Float64Array.from(terms, ({ weight }) => weight),
    meanLength,
    k,
  }
  checkQuery(query)
  return query
}

function missing(field: string, param: string): InvalidInputError {
  return new InvalidInputError(`${field} is missing; set it.`, { param })
}
