/**
 * One search: prepare at the corpus' owner, every shard in parallel on the device that holds it, an exact
 * merge, and the documents from the owner.
 *
 * Invariants:
 * S1. The result depends on the corpus' version and the query alone, not on who searched which shard.
 * S2. A shard whose device is lost, stalled, lacks it or fails is searched once elsewhere: by another
 *     device that holds it, else by the owner. What is missing then is said by name.
 * S3. Everything belongs to one version; a corpus that changes meanwhile is searched again, at most
 *     VERSIONS_MAX times. Every wait has a deadline.
 */
import type { PreparedQuery, RetrieveResponse, ScoredDocument } from '@kvasir/proto/kvasir/memory/v1/corpus'
import { withDeadline } from '@kvasir/runtime/deferred'
import { CorruptDataError, KvasirError, UnavailableError } from '@kvasir/runtime/errors'
import type { Logger } from '@kvasir/runtime/log'
import { type CallSettings, callUnary } from '@kvasir/runtime/rpc-client'
import { recordError, startSpan, withSpan } from '@kvasir/runtime/telemetry'
import { ATTRIBUTE, SPAN } from '@kvasir/runtime/telemetry-names'
import { context, trace } from '@opentelemetry/api'
import { StageCosts } from '../core/stage-costs.js'
import type { PlannedStage } from '../core/stage-plan.js'
import type { StageReport } from '../generation.js'
import { type CorpusDirectory, ownerMissing, type ReachableCorpus } from './corpus-directory.js'
import type { FoundDocument } from './corpus-reports.js'
import { fetchDocuments } from './documents.js'
import { mergeBest } from './merge.js'
import type { RetrievalDevices, RetrievalNode } from './retrieval-devices.js'
import { observeShard, planSearch, type ShardTimes, type StagedShard, searchStages } from './search-stages.js'
import type { ShardHoldings, ShardId } from './shard-holdings.js'
import type { ShardKeeper } from './shard-keeper.js'

const SEARCH_TIMEOUT_MS = 30_000
/** Longer than an owner waits for a corpus that it reads after a start, so that it can say so. */
const PREPARE_TIMEOUT_MS = 8_000
/** Of one device for one shard, where less is predicted. */
const RETRIEVE_TIMEOUT_MS = 2_000
/** A device may take so many times what is predicted. */
const PATIENCE = 20
/** The owner stands in, and nobody does for it. */
const OWNER_TIMEOUT_MS = 10_000
/** A search waits so long for a shard that is being loaded; then the owner searches it. */
const LOAD_WAIT_MS = 2_000
const HEARD_POLL_MS = 100
/** Why a device does not hold a shard though nothing is wrong with it: late, full, of another version, not wanted. */
const NOT_THERE: ReadonlySet<string> = new Set(['deadline', 'overloaded', 'not_found', 'cancelled'])
const VERSIONS_MAX = 4

export interface SearchOptions {
  /** Documents wanted, 1 to 1,000. */
  readonly k: number
  /** Where the documents go into a prompt; undefined for a search on its own. */
  readonly applyAt?: string
  readonly signal?: AbortSignal
}

export interface SearchResult {
  /** Documents of the corpus; 0 where it is empty. */
  readonly corpusDocuments: number
  /** Best first. */
  readonly documents: readonly FoundDocument[]
  readonly stages: readonly StageReport[]
}

export interface SearcherOptions {
  readonly devices: RetrievalDevices
  readonly directory: CorpusDirectory
  readonly holdings: ShardHoldings
  readonly keeper: ShardKeeper
  readonly log: Logger
}

/** The corpus changed while it was searched. */
class VersionMoved extends Error {}

/** One version of a corpus, and a query prepared against it. */
interface Attempt {
  readonly corpus: ReachableCorpus
  readonly prepared: PreparedQuery
  readonly k: number
  readonly signal: AbortSignal
}

interface ShardTask extends StagedShard {
  readonly shard: ShardId
  readonly node: RetrievalNode
}

export class Searcher {
  readonly #options: SearcherOptions
  readonly #costs = new StageCosts()

  constructor(options: SearcherOptions) {
    this.#options = options
  }

  /** Throws NotFoundError for a corpus that is not there, UnavailableError where its owner does not answer. */
  async search(found: ReachableCorpus, query: string, options: SearchOptions): Promise<SearchResult> {
    const timeout = AbortSignal.timeout(SEARCH_TIMEOUT_MS)
    const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout
    const attributes = { [ATTRIBUTE.corpus]: found.ref.name }
    return withSpan(SPAN.retrieve, attributes, async (span) => {
      let corpus = found
      for (let version = 0; version < VERSIONS_MAX; version++) {
        try {
          const result = await this.#searchOnce(corpus, query, options, signal)
          span.setAttribute(ATTRIBUTE.documents, result.documents.length)
          return result
        } catch (thrown) {
          if (!(thrown instanceof VersionMoved)) throw thrown
          await this.#options.directory.refresh()
          corpus = await this.#options.directory.find(corpus.ref)
        }
      }
      throw new UnavailableError(
        `The corpus "${found.ref.name}" changes faster than it can be searched. Try again when its upload has ended.`,
        { retryAfterMs: 1_000 },
      )
    })
  }

  async #searchOnce(
    corpus: ReachableCorpus,
    query: string,
    { k, applyAt }: SearchOptions,
    signal: AbortSignal,
  ): Promise<SearchResult> {
    const prepared = await this.#prepare(corpus, query, signal)
    const corpusDocuments = Number(prepared.documents)
    if (corpusDocuments === 0 || prepared.terms.length === 0) {
      return { corpusDocuments, documents: [], stages: [] }
    }
    const placed = await this.#options.keeper.place(corpus, prepared)
    const tasks = placed.map(({ shard, node }): ShardTask => {
      const share = shard.documentCount / corpusDocuments
      const postingsBytes = Number(prepared.postingsBytes) * share
      return { shard, node, device: node.facts, documents: shard.documentCount, postingsBytes }
    })
    const documentBytes = Number(corpus.info.textBytes) / Math.max(1, Number(corpus.info.documents))
    const stages = planSearch(
      {
        queryBytes: Buffer.byteLength(query),
        terms: prepared.terms.length,
        k,
        owner: corpus.owner.facts,
        shards: tasks,
        apply: applyAt === undefined ? null : { deviceId: applyAt, documentsBytes: documentBytes * k },
      },
      this.#costs,
    )
    const attempt = { corpus, prepared, k, signal }
    const answers = await Promise.all(tasks.map((task) => this.#searchShard(attempt, task, stages)))
    for (const [index, { times }] of answers.entries()) {
      const task = tasks[index]
      if (task) observeShard(task, times, this.#costs)
    }
    const best = mergeBest(
      answers.map(({ documents }) => documents),
      k,
    )
    const documents = await this.#documents(attempt, best)
    const times = answers.map((answer) => answer.times)
    return { corpusDocuments, documents, stages: searchStages(stages, Number(prepared.prepareUs), times) }
  }

  #prepare(corpus: ReachableCorpus, query: string, signal: AbortSignal): Promise<PreparedQuery> {
    const attributes = { [ATTRIBUTE.deviceId]: corpus.owner.ref.deviceId }
    return withSpan(SPAN.retrievePrepare, attributes, async (span) => {
      const request = { corpus: corpus.ref, query }
      const prepared = await this.#askOwner(corpus, () =>
        callUnary(this.#options.devices.client(corpus.owner), 'prepare', request, {
          timeoutMs: PREPARE_TIMEOUT_MS,
          signal,
        }),
      )
      span.setAttribute(ATTRIBUTE.stagePrepareUs, Number(prepared.prepareUs))
      return prepared
    })
  }

  #documents(attempt: Attempt, best: readonly ScoredDocument[]): Promise<readonly FoundDocument[]> {
    const { corpus, prepared, signal } = attempt
    if (best.length === 0) return Promise.resolve([])
    const attributes = {
      [ATTRIBUTE.deviceId]: corpus.owner.ref.deviceId,
      [ATTRIBUTE.documents]: best.length,
    }
    return withSpan(SPAN.retrieveDocuments, attributes, () =>
      this.#askOwner(corpus, () =>
        fetchDocuments(
          this.#options.devices.client(corpus.owner),
          corpus.ref,
          prepared.version,
          best,
          signal,
        ),
      ),
    )
  }

  async #searchShard(
    attempt: Attempt,
    task: ShardTask,
    stages: readonly PlannedStage[],
  ): Promise<{ readonly documents: readonly ScoredDocument[]; readonly times: ShardTimes }> {
    const { holdings, keeper, log } = this.#options
    const { corpus } = attempt
    const isOwner = (node: RetrievalNode) => node.ref.deviceId === corpus.owner.ref.deviceId
    if (!isOwner(task.node)) {
      const predictedMs = stages.reduce((sum, { computeMs }) => sum + computeMs, 0)
      const timeoutMs = Math.max(RETRIEVE_TIMEOUT_MS, PATIENCE * predictedMs)
      for (const node of [task.node, ...keeper.holders(task.shard, task.node).slice(0, 1)]) {
        try {
          if (!(await this.#isThere(attempt, task.shard, node))) continue
          const answer = await this.#retrieve(attempt, task.shard, node, timeoutMs)
          holdings.confirm(node, task.shard)
          return answerOf(answer, node)
        } catch (thrown) {
          const error = KvasirError.from(thrown)
          if (attempt.signal.aborted || error.code === 'invalid_input') throw error
          if (error.code === 'not_found') {
            holdings.gone(node, task.shard)
          } else {
            holdings.doubt(node, task.shard)
            keeper.failed(node)
          }
          log.warn(
            { deviceId: node.ref.deviceId, corpus: corpus.ref.name, code: error.code },
            `a shard is searched elsewhere: ${error.message}`,
          )
        }
      }
    }
    const answer = await this.#askOwner(corpus, () =>
      this.#retrieve(attempt, task.shard, corpus.owner, OWNER_TIMEOUT_MS),
    )
    return answerOf(answer, corpus.owner)
  }

  /** Whether the device holds the shard, or has loaded it in a moment; else it goes on loading. */
  async #isThere(attempt: Attempt, shard: ShardId, node: RetrievalNode): Promise<boolean> {
    const { holdings, keeper } = this.#options
    if (holdings.isHeld(node, shard)) return true
    const loading = keeper.load(attempt.corpus, shard, node)
    try {
      await withDeadline(loading, LOAD_WAIT_MS, 'for a shard to be loaded')
      return true
    } catch (thrown) {
      const { code } = KvasirError.from(thrown)
      if (NOT_THERE.has(code)) return false
      throw thrown
    }
  }

  async #retrieve(
    attempt: Attempt,
    shard: ShardId,
    node: RetrievalNode,
    timeoutMs: number,
  ): Promise<RetrieveResponse> {
    const { corpus, prepared, k, signal } = attempt
    const { deviceId } = node.ref
    const span = startSpan(SPAN.retrieveShard, {
      [ATTRIBUTE.deviceId]: deviceId,
      [ATTRIBUTE.shard]: `${shard.firstDocument}+${shard.documentCount}`,
    })
    try {
      const request = {
        shard: { ...shard, corpus: corpus.ref },
        terms: prepared.terms,
        meanLength: prepared.meanLength,
        k,
      }
      const answer = await context.with(trace.setSpan(context.active(), span), () =>
        this.#whileHeard(node, signal, (settings) =>
          callUnary(this.#options.devices.client(node), 'retrieve', request, { ...settings, timeoutMs }),
        ),
      )
      checkAnswer(answer, shard, k, deviceId)
      span.setAttributes({
        [ATTRIBUTE.documents]: answer.documents.length,
        [ATTRIBUTE.stageRelevancyUs]: Number(answer.relevancyUs),
        [ATTRIBUTE.stageRetrievalUs]: Number(answer.retrievalUs),
      })
      return answer
    } catch (thrown) {
      // That a device lacks a shard is a matter of course, and no reason to keep the trace.
      if (KvasirError.from(thrown).code === 'not_found') span.setAttribute(ATTRIBUTE.errorCode, 'not_found')
      else recordError(span, thrown)
      throw thrown
    } finally {
      span.end()
    }
  }

  /** A device that falls silent is not waited for. */
  async #whileHeard<T>(
    node: RetrievalNode,
    signal: AbortSignal,
    call: (settings: CallSettings) => Promise<T>,
  ): Promise<T> {
    const silent = new AbortController()
    const timer = setInterval(() => {
      if (this.#options.devices.isHeard(node.ref)) return
      const { deviceId } = node.ref
      silent.abort(new UnavailableError(`${deviceId} fell silent during a search.`, { ids: { deviceId } }))
    }, HEARD_POLL_MS)
    try {
      return await call({ signal: AbortSignal.any([signal, silent.signal]) })
    } finally {
      clearInterval(timer)
    }
  }

  /** The owner's NOT_FOUND means that the corpus has changed or is gone; silence, that it is out of reach. */
  async #askOwner<T>(corpus: ReachableCorpus, call: () => Promise<T>): Promise<T> {
    try {
      return await call()
    } catch (thrown) {
      const error = KvasirError.from(thrown)
      switch (error.code) {
        case 'not_found':
          throw new VersionMoved()
        case 'unreachable':
        case 'deadline':
          throw ownerMissing(corpus, error)
        default:
          throw error
      }
    }
  }
}

function answerOf({ documents, relevancyUs, retrievalUs }: RetrieveResponse, node: RetrievalNode) {
  const times = { device: node.facts, relevancyUs: Number(relevancyUs), retrievalUs: Number(retrievalUs) }
  return { documents, times }
}

/** What a device says is not believed unchecked. */
function checkAnswer({ documents }: RetrieveResponse, shard: ShardId, k: number, deviceId: string): void {
  const end = shard.firstDocument + shard.documentCount
  const isWrong = documents.some(
    ({ document, score }) => document < shard.firstDocument || document >= end || !Number.isFinite(score),
  )
  if (documents.length <= k && !isWrong) return
  throw new CorruptDataError(`${deviceId} answered a search with documents that nobody asked for.`, {
    ids: { deviceId },
  })
}
