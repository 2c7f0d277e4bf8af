/**
 * `kvasir bench retrieval`: how well and how fast a test collection is searched, with its postings on one
 * FPGA agent and cut over two whose room is too small for all of them.
 *
 * Times are of the HTTP API, as its clients see them: one search after the other for the percentiles, several at
 * once for the rate. Every query is searched; nDCG and recall are means over the judged ones.
 */
import type { CorpusReport, SearchReport } from '@kvasir/coordinator/retrieval/corpus-reports'
import { InternalError } from '@kvasir/runtime/errors'
import { callApi } from '../client/api-client.js'
import { addDocuments, readDocuments, searchCorpus } from '../client/corpora.js'
import { modelDefault } from '../commands/up-options.js'
import { formatBytes, formatCount } from '../format.js'
import { say } from '../terminal.js'
import { type BeirQuery, readJudgements, readQueries, wrong } from './beir-files.js'
import { withBenchCluster } from './bench-cluster.js'
import type { BenchResult } from './bench-result.js'
import { mean, ndcgAt, recallAt } from './retrieval-metrics.js'
import { percentile, rounded } from './statistics.js'

export interface RetrievalBenchOptions {
  readonly corpus: string
  readonly queries: string
  readonly qrels: string
}

const corpusName = 'bench'
/** The deeper of the two figures. */
const searchK = 100
const ndcgK = 10
const atOnce = 8
/** Searches before those that are timed. */
const warmUpSearches = 50
/** Of the postings: too little for all, enough for half, which shares words with the other half. */
const shardShare = 0.75
/** More than any collection that fits a machine. */
const amplyBytes = 2 ** 40

interface Run {
  readonly postingsBytes: number
  readonly devices: readonly string[]
  /** By query. */
  readonly found: ReadonlyMap<string, SearchReport['documents']>
  readonly searchMs: ReadonlyMap<string, number>
  readonly queriesPerSecond: number
}

export async function benchRetrieval(
  options: RetrievalBenchOptions,
  signal: AbortSignal,
): Promise<BenchResult> {
  const queries = await readQueries(options.queries)
  const judgements = await readJudgements(options.qrels, queries)
  const whole = await runOn({ fpgas: 1, shardBytes: amplyBytes }, options.corpus, queries, signal)
  const shardBytes = Math.ceil(whole.postingsBytes * shardShare)
  say(`now with ${formatBytes(shardBytes)} for shards on each of two agents`)
  const sharded = await runOn({ fpgas: 2, shardBytes }, options.corpus, queries, signal)
  if (sharded.devices.length !== 2) {
    throw new InternalError(
      `The corpus was to be cut over two agents, but ${sharded.devices.join(', ')} searched.`,
    )
  }
  const rows = queries.map(({ id }) => {
    const ranked = whole.found.get(id)?.map((document) => document.id) ?? []
    const judged = judgements.get(id)
    return {
      query: id,
      ...(judged && {
        ndcg10: rounded(ndcgAt(ndcgK, ranked, judged), 6),
        recall100: rounded(recallAt(searchK, ranked, judged), 6),
      }),
      wholeMs: rounded(whole.searchMs.get(id) ?? Number.NaN),
      shardedMs: rounded(sharded.searchMs.get(id) ?? Number.NaN),
      equal: String(isEqual(whole, sharded, id)),
    }
  })
  const scores = [...judgements].map(([id, judged]) => {
    const ranked = whole.found.get(id)?.map((document) => document.id) ?? []
    return { ndcg: ndcgAt(ndcgK, ranked, judged), recall: recallAt(searchK, ranked, judged) }
  })
  return {
    figures: {
      ndcg10: mean(scores.map(({ ndcg }) => ndcg)),
      recall100: mean(scores.map(({ recall }) => recall)),
      shardedEqualsWhole: queries.every(({ id }) => isEqual(whole, sharded, id)) ? 1 : 0,
      ...timesOf('', whole),
      ...timesOf('sharded', sharded),
    },
    rows,
  }
}

function timesOf(prefix: string, run: Run): Record<string, number> {
  const times = [...run.searchMs.values()]
  const figures = {
    p50Ms: percentile(times, 50),
    p99Ms: percentile(times, 99),
    queriesPerSecond: run.queriesPerSecond,
  }
  return Object.fromEntries(
    Object.entries(figures).map(([name, value]) => {
      const full = prefix === '' ? name : prefix + name.charAt(0).toUpperCase() + name.slice(1)
      return [full, rounded(value)]
    }),
  )
}

/** The same documents with the same scores, in the same order. */
function isEqual(whole: Run, sharded: Run, query: string): boolean {
  const [a, b] = [whole.found.get(query) ?? [], sharded.found.get(query) ?? []]
  return a.length === b.length && a.every(({ id, score }, at) => id === b[at]?.id && score === b[at]?.score)
}

function runOn(
  wish: { readonly fpgas: number; readonly shardBytes: number },
  corpusFile: string,
  queries: readonly BeirQuery[],
  signal: AbortSignal,
): Promise<Run> {
  const agentFlags = {
    host: ['--corpus-bytes', String(amplyBytes)],
    fpga: ['--shard-bytes', String(wish.shardBytes)],
  }
  return withBenchCluster({ model: modelDefault, fpgas: wish.fpgas, agentFlags }, signal, async ({ url }) => {
    const corpus = await load(url, corpusFile, signal)
    say(`${formatCount(corpus.documents, 'document')}, ${queries.length} queries`)
    const found = new Map<string, SearchReport['documents']>()
    const searchMs = new Map<string, number>()
    const devices = new Set<string>()
    const search = async ({ id, text }: BeirQuery): Promise<number> => {
      signal.throwIfAborted()
      const startedMs = performance.now()
      const { documents, stages } = await searchCorpus(url, corpusName, text, searchK)
      const tookMs = performance.now() - startedMs
      found.set(id, documents)
      for (const { stage, devices: used } of stages) {
        if (stage === 'relevancy') for (const device of used) devices.add(device)
      }
      return tookMs
    }
    for (let index = 0; index < warmUpSearches; index++) {
      const query = queries[index % queries.length]
      if (query) await search(query)
    }
    // The first searches found shards that were still on their way, and so other devices.
    devices.clear()
    for (const query of queries) searchMs.set(query.id, await search(query))
    const startedMs = performance.now()
    const waiting = [...queries]
    await Promise.all(
      Array.from({ length: atOnce }, async () => {
        for (let query = waiting.pop(); query; query = waiting.pop()) await search(query)
      }),
    )
    const seconds = (performance.now() - startedMs) / 1000
    return {
      postingsBytes: corpus.postingsBytes,
      devices: [...devices].sort(),
      found,
      searchMs,
      queriesPerSecond: queries.length / seconds,
    }
  })
}

async function load(url: string, file: string, signal: AbortSignal): Promise<CorpusReport> {
  await callApi(url, '/v1/corpora', { method: 'POST', body: { name: corpusName }, signal })
  const { chunks } = await readDocuments(file)
  const { problems, corpus } = await addDocuments(url, corpusName, chunks, signal)
  const [problem] = problems
  if (problem) throw wrong(file, problem.line, problem.message.replace(/\.$/, ''))
  return corpus
}
