/**
 * Relevancy (Quest, LServe): of a page and a query Σ_c max(q_c·max_c, q_c·min_c), at least every q·k of
 * the page; of the query heads that share a KV head the largest.
 *
 * Since max_c ≥ min_c, the sum is min(q, 0)·min + max(q, 0)·max: one matrix product of all query heads
 * with rows of the bounds slab, which hold minimum and maximum side by side. It works out the heads that
 * a row is not for as well, and rows of blocks that were not asked for where they lie between: on a CPU
 * both cost less than moving the rows together.
 *
 * P1 A page's score has the same bits whatever other pages are scored with it and wherever its block
 *    lies, so that a choice does not depend on which device scored which pages. Pages are the rows of the
 *    product, and a row does not depend on the others where there are at least two; how its sum is cut
 *    depends on the head dimension and the number of query heads alone.
 */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { doubleRows } from './doubled-rows.js'
import type { KvSlabs } from './kv-slab.js'
import type { ModelConfig } from './model-config.js'
import { GraphBuilder } from './onnx-graph.js'
import { floats, sessionOptions } from './ort-session.js'

/** Blocks are scored where they lie while they are at least this part of those that they span. */
const SPANNED_PART = 1 / 4
const ROWS_MIN = 16

function buildScoresGraph({ headDim, heads }: ModelConfig): Uint8Array {
  const queries = Math.max(2, heads)
  const graph = new GraphBuilder()
  graph.input('bounds', 'float32', ['rows', 2 * headDim])
  graph.input('query', 'float32', [queries, 2 * headDim])
  graph.node('FusedMatMul', ['bounds', 'query'], ['sums'], { transB: 1 })
  graph.output('sums', ['rows', queries])
  return graph.build('page-scores')
}

export class PageScorer {
  readonly #config: ModelConfig
  readonly #slabs: KvSlabs
  readonly #session: InferenceSession

  private constructor(config: ModelConfig, slabs: KvSlabs, session: InferenceSession) {
    this.#config = config
    this.#slabs = slabs
    this.#session = session
  }

  static async create(config: ModelConfig, slabs: KvSlabs, threads: number): Promise<PageScorer> {
    const options = sessionOptions(Math.min(threads, config.kvHeads))
    return new PageScorer(config, slabs, await InferenceSession.create(buildScoresGraph(config), options))
  }

  release(): Promise<void> {
    return this.#session.release()
  }

  /** `q`: `[query heads, head dim]`; the blocks' bounds must stand. Returns `[kv heads, blocks]`. */
  async run(layer: number, q: Float32Array, blocks: Uint32Array): Promise<Float32Array> {
    const { heads, kvHeads, headDim } = this.#config
    if (blocks.length === 0) return new Float32Array(0)
    const { bounds, firstBlock } = this.#rows(layer, blocks)
    const width = 2 * headDim
    const { sums } = await this.#session.run({
      bounds: new Tensor('float32', bounds, [bounds.length / width, width]),
      query: new Tensor('float32', this.#query(q), [Math.max(2, heads), width]),
    })
    const found = floats(sums)
    const group = heads / kvHeads
    const scores = new Float32Array(kvHeads * blocks.length)
    for (let head = 0; head < kvHeads; head++) {
      for (let i = 0; i < blocks.length; i++) {
        const block = firstBlock === undefined ? i : (blocks[i] ?? 0) - firstBlock
        const at = (block * kvHeads + head) * Math.max(2, heads) + head * group
        let best = found[at] ?? 0
        for (let other = 1; other < group; other++) best = Math.max(best, found[at + other] ?? 0)
        scores[head * blocks.length + i] = best
      }
    }
    return scores
  }

  /** Bounds that hold those of the blocks: where they lie, from `firstBlock` on, or moved together in order. */
  #rows(layer: number, blocks: Uint32Array) {
    const { bounds } = this.#slabs
    let first = blocks[0] ?? 0
    let last = first
    for (const block of blocks) {
      if (block < first) first = block
      else if (block > last) last = block
    }
    const spanned = last - first + 1
    const blockFloats = bounds.blockBytes / Float32Array.BYTES_PER_ELEMENT
    const blocksMin = Math.ceil(ROWS_MIN / this.#config.kvHeads)
    if (spanned >= blocksMin && blocks.length >= spanned * SPANNED_PART) {
      const rows = bounds.slab(layer).subarray(first * blockFloats, (last + 1) * blockFloats)
      return { bounds: rows, firstBlock: first }
    }
    const moved = bounds.read(layer, blocks)
    if (blocks.length >= blocksMin) return { bounds: moved, firstBlock: undefined }
    const padded = new Float32Array(blocksMin * blockFloats)
    padded.set(moved)
    return { bounds: padded, firstBlock: undefined }
  }

  /** Of each query head what is negative, then what is positive. */
  #query(q: Float32Array): Float32Array {
    const { heads, headDim } = this.#config
    const query = new Float32Array(2 * q.length)
    for (let head = 0; head < heads; head++) {
      for (let d = 0; d < headDim; d++) {
        const value = q[head * headDim + d] ?? 0
        query[2 * head * headDim + (value < 0 ? d : headDim + d)] = value
      }
    }
    return heads === 1 ? doubleRows(query, 2 * headDim) : query
  }
}
