/**
 * Relevancy (Quest, LServe): of a page and a query Σ_c max(q_c·max_c, q_c·min_c), at least every q·k of
 * the page; of the query heads that share a KV head the largest.
 *
 * Since max_c ≥ min_c, the sum is min(q, 0)·min + max(q, 0)·max: one matrix product over the bounds slab,
 * whose rows hold minimum and maximum side by side.
 *
 * P1 A page's score has the same bits whatever other pages are scored with it, so that a choice does not
 *    depend on which device scored which pages. Pages are the rows of the product, and a row does not
 *    depend on the others where there are at least two; how the sum is cut depends on the head dimension
 *    and the number of query heads alone.
 */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { doubleRows } from './doubled-rows.js'
import type { KvSlabs } from './kv-slab.js'
import type { ModelConfig } from './model-config.js'
import { GraphBuilder } from './onnx-graph.js'
import { floats, sessionOptions } from './ort-session.js'

/** Pages are padded to a multiple of this. */
const ROWS = 16

function buildScoresGraph({ headDim, heads, kvHeads }: ModelConfig): Uint8Array {
  const queries = Math.max(2, heads / kvHeads)
  const graph = new GraphBuilder()
  graph.input('bounds', 'float32', ['rows', 2 * headDim])
  graph.input('boundsRows', 'int32', [kvHeads, 'pages'])
  graph.input('query', 'float32', [kvHeads, queries, 2 * headDim])
  graph.node('Gather', ['bounds', 'boundsRows'], ['pageBounds'], { axis: 0 })
  graph.node('FusedMatMul', ['pageBounds', 'query'], ['sums'], { transB: 1 })
  graph.node('ReduceMax', ['sums', graph.integers('overHeads', [2])], ['scores'], { keepdims: 0 })
  graph.output('scores', [kvHeads, 'pages'])
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

  /** `q`: `[query heads, head dim]`; the blocks' bounds must stand. Returns `[kv heads, blocks]`. */
  async run(layer: number, q: Float32Array, blocks: Uint32Array): Promise<Float32Array> {
    const { heads, kvHeads, headDim } = this.#config
    if (blocks.length === 0) return new Float32Array(0)
    const { bounds, zeroBlock } = this.#slabs
    const pages = Math.ceil(blocks.length / ROWS) * ROWS
    const rows = new Int32Array(kvHeads * pages)
    for (let head = 0; head < kvHeads; head++) {
      for (let i = 0; i < pages; i++) rows[head * pages + i] = bounds.row(blocks[i] ?? zeroBlock, head)
    }
    const slab = bounds.slab(layer)
    const { scores } = await this.#session.run({
      bounds: new Tensor('float32', slab, [slab.length / (2 * headDim), 2 * headDim]),
      boundsRows: new Tensor('int32', rows, [kvHeads, pages]),
      query: new Tensor('float32', this.#query(q), [kvHeads, Math.max(2, heads / kvHeads), 2 * headDim]),
    })
    return withoutPadding(floats(scores), pages, blocks.length)
  }

  /** Of each query head what is negative, then what is positive. */
  #query(q: Float32Array): Float32Array {
    const { heads, kvHeads, headDim } = this.#config
    const query = new Float32Array(2 * q.length)
    for (let head = 0; head < heads; head++) {
      for (let d = 0; d < headDim; d++) {
        const value = q[head * headDim + d] ?? 0
        query[2 * head * headDim + (value < 0 ? d : headDim + d)] = value
      }
    }
    return heads === kvHeads ? doubleRows(query, 2 * headDim) : query
  }
}

function withoutPadding(values: Float32Array, columns: number, wanted: number): Float32Array {
  if (columns === wanted) return values
  const rows = values.length / columns
  const out = new Float32Array(rows * wanted)
  for (let row = 0; row < rows; row++) {
    out.set(values.subarray(row * columns, row * columns + wanted), row * wanted)
  }
  return out
}
