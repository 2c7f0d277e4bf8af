/** A search over a shard, as the answer on the wire and as a span: the same on a device and on the owner. */
import type { KernelOutput } from '@kvasir/engine/kernels'
import type { RetrieveResponse } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { withSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import type { CheckedShard } from './shard-requests.js'

export function shardAttributes({ corpus, version, range }: CheckedShard) {
  const { firstDocument, documentCount } = range
  return {
    [ATTRIBUTE.corpus]: corpus.name,
    [ATTRIBUTE.shard]: `${version}/${firstDocument}+${documentCount}`,
  }
}

export function shardSearch(
  shard: CheckedShard,
  search: () => Promise<KernelOutput<'bm25-search'>>,
): Promise<RetrieveResponse> {
  return withSpan(SPAN.shardSearch, shardAttributes(shard), async (span) => {
    const { documents, scores, relevancyUs, retrievalUs } = await search()
    span.setAttributes({
      [ATTRIBUTE.documents]: documents.length,
      [ATTRIBUTE.stageRelevancyUs]: relevancyUs,
      [ATTRIBUTE.stageRetrievalUs]: retrievalUs,
    })
    return {
      documents: Array.from(documents, (document, rank) => ({ document, score: scores[rank] ?? 0 })),
      relevancyUs: BigInt(relevancyUs),
      retrievalUs: BigInt(retrievalUs),
    }
  })
}
