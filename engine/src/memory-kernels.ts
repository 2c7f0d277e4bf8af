/**
 * The kernels over KV pages on ONNX Runtime: bounds, scores, top-k, partial attention, and the choice of
 * pages that joins them. Both the driver's `runKernel` and a step's sparse attention use them.
 *
 * Inputs are checked where they come in from outside (`run…`): beyond a declared limit, outside the pool
 * or of a wrong size is an InvalidInputError before anything is computed.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { BLOCK_TOKENS } from './device-driver.js'
import { checkKernelLimit } from './kernel-limits.js'
import type { KernelInput, KernelOutput } from './kernels.js'
import type { KvSlabs } from './kv-slab.js'
import type { ModelConfig } from './model-config.js'
import { PageScorer } from './page-scores.js'
import { type HeadPages, type PartialResult, PartialSessions } from './partial-sessions.js'
import { largestColumns, topK } from './top-k.js'

export class MemoryKernels {
  readonly #config: ModelConfig
  readonly #slabs: KvSlabs
  readonly #scorer: PageScorer
  readonly #partial: PartialSessions

  private constructor(config: ModelConfig, slabs: KvSlabs, scorer: PageScorer, partial: PartialSessions) {
    this.#config = config
    this.#slabs = slabs
    this.#scorer = scorer
    this.#partial = partial
  }

  static async create(config: ModelConfig, slabs: KvSlabs, threads: number): Promise<MemoryKernels> {
    const scorer = await PageScorer.create(config, slabs, threads)
    return new MemoryKernels(config, slabs, scorer, await PartialSessions.create(config, slabs, threads))
  }

  async release(): Promise<void> {
    await this.#scorer.release()
    await this.#partial.release()
  }

  /** Scores of pages, their bounds prepared where missing: `[kv heads, blocks]`. */
  scores(layer: number, q: Float32Array, blocks: Uint32Array): Promise<Float32Array> {
    this.#slabs.prepareBounds(layer, blocks)
    return this.#scorer.run(layer, q, blocks)
  }

  attend(layer: number, q: Float32Array, pages: readonly HeadPages[]): Promise<PartialResult> {
    return this.#partial.run(layer, q, pages)
  }

  runPageBounds({ layer, blocks }: KernelInput<'page-bounds'>): KernelOutput<'page-bounds'> {
    checkKernelLimit('page-bounds', 'pages', blocks.length)
    this.#check(layer, blocks)
    return this.#slabs.readBounds(layer, blocks)
  }

  async runPageScores({
    layer,
    q,
    blocks,
  }: KernelInput<'page-scores'>): Promise<KernelOutput<'page-scores'>> {
    checkKernelLimit('page-scores', 'pages', blocks.length)
    this.#check(layer, blocks, q)
    return this.scores(layer, q, blocks)
  }

  async runPartialAttention({
    layer,
    q,
    blocks,
  }: KernelInput<'partial-attention'>): Promise<KernelOutput<'partial-attention'>> {
    const { kvHeads } = this.#config
    if (blocks.length !== kvHeads) {
      throw new InvalidInputError(
        `partial-attention wants blocks for ${kvHeads} KV heads, not ${blocks.length}.`,
      )
    }
    for (const own of blocks) {
      checkKernelLimit('partial-attention', 'pages', own.length)
      this.#check(layer, own, q)
    }
    return (await this.#attendFull(layer, q, blocks)).partial
  }

  async runChoosePages(input: KernelInput<'choose-pages'>): Promise<KernelOutput<'choose-pages'>> {
    const { layer, q, blocks, pages, rivals, attend } = input
    const { kvHeads } = this.#config
    checkKernelLimit('choose-pages', 'pages', blocks.length)
    checkKernelLimit('choose-pages', 'rivals', rivals.length / kvHeads)
    this.#check(layer, blocks, q)
    if (!Number.isInteger(pages) || pages < 0) {
      throw new InvalidInputError(`choose-pages wants a number of pages, 0 for all, not ${pages}.`)
    }
    if (rivals.length % kvHeads !== 0) {
      throw new InvalidInputError(`${rivals.length} rivals do not divide among ${kvHeads} KV heads.`)
    }
    const begin = performance.now()
    const isAll = pages === 0 || pages >= blocks.length + rivals.length / kvHeads
    const scores = isAll ? undefined : await this.scores(layer, q, blocks)
    const scored = performance.now()
    const chosen = Array.from({ length: kvHeads }, (_, head) =>
      scores === undefined
        ? Uint32Array.from(blocks, (_, i) => i)
        : bestBeforeRivals(headRow(scores, head, kvHeads), headRow(rivals, head, kvHeads), pages),
    )
    const picked = performance.now()
    const attended = attend
      ? await this.#attendFull(
          layer,
          q,
          chosen.map((own) => own.map((i) => blocks[i] ?? 0)),
        )
      : undefined
    const end = performance.now()
    return {
      chosen,
      partial: attended?.partial,
      mass: attended?.massIn(attended.partial),
      relevancyUs: microseconds(scored - begin),
      retrievalUs: microseconds(picked - scored),
      applyUs: microseconds(end - picked),
    }
  }

  #attendFull(layer: number, q: Float32Array, blocks: readonly Uint32Array[]): Promise<PartialResult> {
    return this.attend(
      layer,
      q,
      blocks.map((own) => ({ blocks: own, lastTokens: BLOCK_TOKENS })),
    )
  }

  #check(layer: number, blocks: Uint32Array, q?: Float32Array): void {
    this.#slabs.check(layer, blocks)
    const { heads, headDim } = this.#config
    if (q !== undefined && q.length !== heads * headDim) {
      throw new InvalidInputError(`A query has ${heads * headDim} numbers, not ${q.length}.`)
    }
  }
}

/** Needs no model. */
export function runTopK({ values, rows, k }: KernelInput<'top-k'>): KernelOutput<'top-k'> {
  checkKernelLimit('top-k', 'rows', rows)
  const columns = values.length / rows
  if (!Number.isInteger(columns)) {
    throw new InvalidInputError(`${values.length} values do not make ${rows} rows.`)
  }
  checkKernelLimit('top-k', 'columns', columns)
  if (!Number.isInteger(k) || k < 0) throw new InvalidInputError(`k is a whole number of columns, not ${k}.`)
  return topK(values, rows, k)
}

/** Of `pages` chosen among own pages and later rivals: the own ones, ascending. */
export function bestBeforeRivals(own: Float32Array, rivals: Float32Array, pages: number): Uint32Array {
  const row = new Float32Array(own.length + rivals.length)
  row.set(own)
  row.set(rivals, own.length)
  return largestColumns(row, pages).filter((column) => column < own.length)
}

/** One row of `[rows, columns]`. */
export function headRow(values: Float32Array, row: number, rows: number): Float32Array {
  const columns = values.length / rows
  return values.subarray(row * columns, (row + 1) * columns)
}

function microseconds(ms: number): number {
  return Math.round(ms * 1_000)
}
