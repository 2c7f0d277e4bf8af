/**
 * The attention of one layer of a step: chooses pages where sequences attend to some only, asks other
 * devices where they hold pages or bounds, runs the calls, and merges.
 *
 * X1 Everything that is asked of other devices in a layer is asked before anything is waited for, and
 *    what needs no answer is computed meanwhile.
 * X2 A sequence whose question fails is asked for no more and its rows mean nothing; the rows of the
 *    others have the same bits as without it.
 */
import type { Tensor } from 'onnxruntime-node'
import { type AttentionCall, fillRuns } from './attention-plan.js'
import type { AttentionSessions } from './attention-sessions.js'
import { BLOCK_TOKENS, type PartialAttention, type RemoteAnswer } from './device-driver.js'
import type { KvSlabs } from './kv-slab.js'
import { headRow, type MemoryKernels } from './memory-kernels.js'
import { mergePartials } from './merge-partials.js'
import type { ModelConfig } from './model-config.js'
import { newestAndBest, randomScores, recentScores } from './page-plan.js'
import { ownPages, partialOf, remoteQueryOf } from './remote-attention.js'
import { slabInputs } from './slab-graph.js'
import type { Lane, LayoutEntry, StepLayout } from './step-layout.js'

/** What was asked of another device. */
interface Asked {
  readonly entry: LayoutEntry
  readonly rivals: Float32Array
  /** Never rejects. */
  readonly answer: Promise<
    { readonly value: RemoteAnswer; readonly ms: number } | { readonly error: unknown }
  >
}

export interface AttentionParts {
  readonly config: ModelConfig
  readonly slabs: KvSlabs
  readonly sessions: AttentionSessions
  readonly kernels: MemoryKernels
}

export class StepAttention {
  readonly #config: ModelConfig
  readonly #slabs: KvSlabs
  readonly #sessions: AttentionSessions
  readonly #kernels: MemoryKernels
  readonly #slabInputs: readonly Readonly<Record<string, Tensor>>[]
  /** Attention calls so far. */
  calls = 0

  constructor({ config, slabs, sessions, kernels }: AttentionParts) {
    this.#config = config
    this.#slabs = slabs
    this.#sessions = sessions
    this.#kernels = kernels
    this.#slabInputs = Array.from({ length: config.layers }, (_, layer) =>
      slabInputs(slabs, layer, config.headDim),
    )
  }

  release(): Promise<void> {
    return this.#sessions.release()
  }

  /** `q` and the result: `[rows of the layout, heads · dim]`. `between`: others are served. */
  async run(
    layer: number,
    q: Float32Array,
    layout: StepLayout,
    between: () => unknown,
  ): Promise<Float32Array> {
    const width = this.#config.heads * this.#config.headDim
    const out = new Float32Array(layout.rows * width)
    const queryOf = ({ row }: LayoutEntry) => q.subarray(row * width, (row + 1) * width)
    const asked: Asked[] = []
    for (const entry of layout.entries) {
      const { source } = entry.lane.plan
      if (entry.query.rows > 1 || entry.lane.error !== undefined) continue
      if (source === 'indices' || source === 'partial')
        asked.push(await this.#ask(layer, entry, queryOf(entry)))
    }
    for (const entry of layout.entries) {
      if (entry.lane.plan.source === 'choose') await this.#choose(layer, entry.lane, queryOf(entry))
    }
    await this.#attend(layer, q, layout.early(layer), layout.entries, out, between)
    for (const { entry, rivals, answer } of asked) {
      const { lane } = entry
      const result = await answer
      try {
        if ('error' in result) throw result.error
        lane.meter?.add('remote', result.ms)
        lane.meter?.addAnswer(result.value, lane.plan.source === 'partial')
        this.#take(lane, ownPages(result.value, lane.plan, rivals, this.#config))
        if (lane.plan.source === 'partial') {
          const merged = await this.#attendBeside(layer, lane, queryOf(entry), partialOf(result.value))
          out.set(merged.output, entry.row * width)
        }
      } catch (error) {
        lane.error = error
      }
    }
    await this.#attend(layer, q, layout.late, layout.entries, out, between)
    return out
  }

  /** Scores of the pages that are here but the newest, `[kv heads, pages]`. */
  async #scores(layer: number, lane: Lane, q: Float32Array, pages: Uint32Array): Promise<Float32Array> {
    const begin = performance.now()
    this.#slabs.prepareBounds(layer, pages)
    const prepared = performance.now()
    const scores = await this.#kernels.scores(layer, q, pages)
    lane.meter?.add('prepare', prepared - begin)
    lane.meter?.add('relevancy', performance.now() - prepared)
    return scores
  }

  async #ask(layer: number, entry: LayoutEntry, q: Float32Array): Promise<Asked> {
    const { plan, sequence } = entry.lane
    const rivalBlocks = sequence.blocks.subarray(
      plan.remotePages - plan.firstPage,
      plan.pages - plan.firstPage - 1,
    )
    const rivals =
      plan.budget === plan.pages ? new Float32Array(0) : await this.#scores(layer, entry.lane, q, rivalBlocks)
    const begin = performance.now()
    const query = remoteQueryOf(layer, q.slice(), plan, rivals)
    const answer = Promise.resolve()
      .then(() => sequence.remote?.ask(query) ?? Promise.reject(new TypeError('no device to ask')))
      .then(
        (value) => ({ value, ms: performance.now() - begin }),
        (error: unknown) => ({ error }),
      )
    return { entry, rivals, answer }
  }

  /** Chooses among the pages that are here. */
  async #choose(layer: number, lane: Lane, q: Float32Array): Promise<void> {
    const { plan, sequence } = lane
    const { kvHeads } = this.#config
    const others = plan.pages - plan.firstPage - 1
    const { method = 'recent', seed = 0 } = sequence.attention ?? {}
    // With a budget of one page there is nothing to score.
    const scores =
      method === 'page-bounds' && plan.budget > 1
        ? await this.#scores(layer, lane, q, sequence.blocks.subarray(0, others))
        : undefined
    const begin = performance.now()
    const chosen = Array.from({ length: kvHeads }, (_, head) => {
      const row =
        scores !== undefined
          ? headRow(scores, head, kvHeads)
          : method === 'random'
            ? randomScores(others, { seed }, layer, head, sequence.start)
            : recentScores(others)
      return newestAndBest(row, plan.budget)
    })
    this.#take(lane, chosen)
    lane.meter?.add('retrieval', performance.now() - begin)
  }

  #take(lane: Lane, pages: readonly Uint32Array[]): void {
    const { blocks } = lane.sequence
    lane.pages = pages
    for (const [head, own] of pages.entries()) lane.chosenBlocks[head] = own.map((page) => blocks[page] ?? 0)
  }

  async #attend(
    layer: number,
    q: Float32Array,
    calls: readonly AttentionCall[],
    entries: readonly LayoutEntry[],
    out: Float32Array,
    between: () => unknown,
  ): Promise<void> {
    const slab = this.#slabInputs[layer]
    if (slab === undefined) throw new RangeError(`no layer ${layer}`)
    const width = this.#config.heads * this.#config.headDim
    for (const call of calls) {
      const own = entries.filter(({ row }) => row >= call.rowStart && row < call.rowStart + call.rows)
      const isMeasured = own.some(({ lane }) => lane.meter !== undefined)
      const begin = performance.now()
      fillRuns(call, this.#config, this.#slabs)
      this.calls++
      const rows = q.subarray(call.rowStart * width, (call.rowStart + call.rows) * width)
      const { attended, pageMass } = await this.#sessions.run(call, rows, slab, isMeasured)
      out.set(attended, call.rowStart * width)
      const ms = performance.now() - begin
      if (isMeasured) for (const [b, { lane }] of own.entries()) this.#measure(lane, call, b, pageMass, ms)
      await between()
    }
  }

  #measure(lane: Lane, call: AttentionCall, b: number, pageMass: Float32Array, ms: number): void {
    const { kvHeads } = this.#config
    const width = call.keys / BLOCK_TOKENS
    lane.meter?.add('apply', ms / call.batch)
    for (let head = 0; head < kvHeads; head++) {
      const start = (b * kvHeads + head) * width
      const pages = lane.pages?.[head] ?? pagesFrom(call.firstPages[b] ?? 0, lane.plan.pages)
      lane.meter?.addHead(pages, pageMass.subarray(start, start + pages.length))
    }
  }

  /** Attends to the pages taken here and merges with what another device attended to. */
  async #attendBeside(
    layer: number,
    lane: Lane,
    q: Float32Array,
    theirs: PartialAttention,
  ): Promise<PartialAttention> {
    const { heads, headDim } = this.#config
    const begin = performance.now()
    const lastTokens = (lane.sequence.start % BLOCK_TOKENS) + 1
    this.calls++
    const own = await this.#kernels.attend(
      layer,
      q,
      lane.chosenBlocks.map((blocks) => ({ blocks, lastTokens })),
    )
    const merged = mergePartials([theirs, own.partial], heads, headDim)
    lane.meter?.add('apply', performance.now() - begin)
    if (lane.meter !== undefined) {
      const mass = own.massIn(merged)
      for (const [head, pages] of (lane.pages ?? []).entries()) lane.meter.addHead(pages, mass[head] ?? [])
    }
    return merged
  }
}

function pagesFrom(first: number, end: number): Uint32Array {
  return Uint32Array.from({ length: end - first }, (_, i) => first + i)
}
