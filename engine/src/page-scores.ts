/**
 * Relevancy (Quest, LServe): of a page and a query Σ_c max(q_c·max_c, q_c·min_c), at least every q·k of
 * the page; of the query heads that share a KV head the largest.
 *
 * Since max_c ≥ min_c, the sum is min(q, 0)·min + max(q, 0)·max: two matrix products over the bounds slab.
 *
 * P1 A page's score has the same bits whatever other pages are scored with it, so that a choice does not
 *    depend on which device scored which pages. It rests on the facts of A1 in attention-graph.ts: at
 *    least two query rows, columns in multiples of 16, and a sum over the head dimension that is one
 *    block of the matrix kernel (which is why the two products are not one of twice the length).
 */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { doubleRows } from './doubled-rows.js'
import type { KvSlabs } from './kv-slab.js'
import type { ModelConfig } from './model-config.js'
import { GraphBuilder } from './onnx-graph.js'
import { floats, sessionOptions } from './ort-session.js'

const COLUMNS = 16

function buildScoresGraph({ headDim, heads, kvHeads }: ModelConfig): Uint8Array {
  const rows = Math.max(2, heads / kvHeads)
  const graph = new GraphBuilder()
  graph.input('bounds', 'float32', ['rows', headDim])
  for (const side of ['low', 'high']) {
    graph.input(`${side}Query`, 'float32', [kvHeads, rows, headDim])
    graph.input(`${side}Rows`, 'int32', [kvHeads, 'pages'])
    graph.node('Gather', ['bounds', `${side}Rows`], [`${side}Bounds`], { axis: 0 })
    graph.node('FusedMatMul', [`${side}Query`, `${side}Bounds`], [side], { transB: 1 })
  }
  graph.node('Add', ['low', 'high'], ['sums'])
  graph.node('ReduceMax', ['sums', graph.integers('overHeads', [1])], ['scores'], { keepdims: 0 })
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
    const columns = Math.ceil(blocks.length / COLUMNS) * COLUMNS
    const lowRows = new Int32Array(kvHeads * columns)
    for (let head = 0; head < kvHeads; head++) {
      for (let i = 0; i < columns; i++) {
        lowRows[head * columns + i] = bounds.minimumRow(blocks[i] ?? zeroBlock, head)
      }
    }
    const rows = Math.max(2, heads / kvHeads)
    const query = heads === kvHeads ? doubleRows(q, headDim) : q
    const rowsTensor = (values: Int32Array) => new Tensor('int32', values, [kvHeads, columns])
    const queryTensor = (values: Float32Array) => new Tensor('float32', values, [kvHeads, rows, headDim])
    const slab = bounds.slab(layer)
    const { scores } = await this.#session.run({
      bounds: new Tensor('float32', slab, [slab.length / headDim, headDim]),
      lowQuery: queryTensor(query.map((value) => Math.min(value, 0))),
      highQuery: queryTensor(query.map((value) => Math.max(value, 0))),
      lowRows: rowsTensor(lowRows),
      highRows: rowsTensor(lowRows.map((row) => row + 1)),
    })
    return withoutPadding(floats(scores), columns, blocks.length)
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
