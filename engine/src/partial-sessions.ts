/**
 * Partial attention: of one query over some of a sequence's tokens, with what is needed to merge it with
 * attention over the others (merge-partials.ts). The blocks may differ from KV head to KV head.
 *
 * R1 The same bits whatever the block ids; long lists are cut into tiles at fixed places, so that memory
 *    is bounded, and the tiles are merged in order.
 */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { BLOCK_TOKENS, type PartialAttention } from './device-driver.js'
import { doubleRows, everySecondRow } from './doubled-rows.js'
import { kvBlockBytes } from './kv-format.js'
import type { KvSlabs } from './kv-slab.js'
import { emptyPartial, mergePartials, shareOfMerged } from './merge-partials.js'
import type { ModelConfig } from './model-config.js'
import type { KvFormat } from './numerics.js'
import { GraphBuilder } from './onnx-graph.js'
import { floats, sessionOptions } from './ort-session.js'
import { addSlabInputs, gatherRuns, scaleByToken, slabInputs } from './slab-graph.js'

/** One KV head's pages. */
export interface HeadPages {
  /** In the order of the sequence. */
  readonly blocks: Uint32Array
  /** Tokens of the last block that are attended to. */
  readonly lastTokens: number
}

export interface PartialResult {
  readonly partial: PartialAttention
  /**
   * Of each KV head and its pages, the weight that the page has in `whole`, which this part was merged
   * into: mean over the query heads of the group.
   */
  massIn(whole: PartialAttention): readonly Float32Array[]
}

/** K and V of one call, as f32: what is gathered stays in the cache until it is read. */
const TILE_BYTES = 4 << 20

function buildPartialGraph({ headDim, heads, kvHeads }: ModelConfig, pool: KvFormat): Uint8Array {
  const rows = Math.max(2, heads / kvHeads)
  const graph = new GraphBuilder()
  graph.input('q', 'float32', [kvHeads, rows, headDim])
  addSlabInputs(graph, pool, headDim)
  graph.input('keyRuns', 'int32', [kvHeads, 'pages'])
  graph.input('valueRuns', 'int32', [kvHeads, 'pages'])
  graph.input('mask', 'float32', [kvHeads, 1, 'keys'])
  const flat = graph.integers('flat', [0, -1, headDim])
  const overKeys = graph.integers('overKeys', [-1])
  const byToken = [0, 1, -1]
  gatherRuns(graph, pool, { runs: 'keyRuns', shape: flat, output: 'keys' })
  gatherRuns(graph, pool, { runs: 'valueRuns', shape: flat, output: 'values' })
  // The few queries are the side that the kernel reorders, not the many keys.
  graph.node('FusedMatMul', ['keys', 'q'], ['keyScores'], {
    transB: 1,
    alpha: { float: 1 / Math.sqrt(headDim) },
  })
  graph.node('Transpose', ['keyScores'], ['rawScores'], { perm: [0, 2, 1] })
  const scores = scaleByToken(graph, pool, { values: 'rawScores', runs: 'keyRuns', shape: byToken })
  graph.node('Add', [scores, 'mask'], ['masked'])
  graph.node('ReduceMax', ['masked', overKeys], ['max'], { keepdims: 1 })
  graph.node('Sub', ['masked', 'max'], ['shifted'])
  graph.node('Exp', ['shifted'], ['powers'])
  graph.node('ReduceSum', ['powers', overKeys], ['sum'], { keepdims: 1 })
  const powers = scaleByToken(graph, pool, { values: 'powers', runs: 'valueRuns', shape: byToken })
  graph.node('MatMul', [powers, 'values'], ['weighted'])
  graph.node('Div', ['weighted', 'sum'], ['output'])
  graph.node('Reshape', ['powers', graph.integers('byPage', [0, 0, -1, BLOCK_TOKENS])], ['pagePowers'])
  graph.node('ReduceSum', ['pagePowers', overKeys], ['pageSums'], { keepdims: 0 })
  graph.output('output', [kvHeads, rows, headDim])
  graph.output('max', [kvHeads, rows, 1])
  graph.output('sum', [kvHeads, rows, 1])
  graph.output('pageSums', [kvHeads, rows, 'pages'])
  return graph.build('partial-attention')
}

interface Tile extends PartialAttention {
  /** `[query heads, pages]`: Σ exp(score − max) of each page. */
  readonly pageSums: Float32Array
  readonly firstPage: number
  readonly pages: number
}

export class PartialSessions {
  readonly #config: ModelConfig
  readonly #slabs: KvSlabs
  readonly #session: InferenceSession

  private constructor(config: ModelConfig, slabs: KvSlabs, session: InferenceSession) {
    this.#config = config
    this.#slabs = slabs
    this.#session = session
  }

  static async create(config: ModelConfig, slabs: KvSlabs, threads: number): Promise<PartialSessions> {
    const options = sessionOptions(Math.min(threads, config.kvHeads))
    const session = await InferenceSession.create(buildPartialGraph(config, slabs.pool), options)
    return new PartialSessions(config, slabs, session)
  }

  release(): Promise<void> {
    return this.#session.release()
  }

  /** `q`: `[query heads, head dim]`; `pages`: one entry a KV head. */
  async run(layer: number, q: Float32Array, pages: readonly HeadPages[]): Promise<PartialResult> {
    const { heads, kvHeads, headDim } = this.#config
    const pagesMax = Math.max(...pages.map(({ blocks }) => blocks.length))
    const tiles: Tile[] = []
    const tilePages = Math.ceil(TILE_BYTES / kvBlockBytes(this.#config, 'f32'))
    for (let first = 0; first < pagesMax; first += tilePages) {
      tiles.push(await this.#runTile(layer, q, pages, first, Math.min(tilePages, pagesMax - first)))
    }
    const [first] = tiles
    const partial =
      first === undefined
        ? emptyPartial(heads, headDim)
        : tiles.length === 1
          ? { output: first.output, max: first.max, sum: first.sum }
          : mergePartials(tiles, heads, headDim)
    const massIn = (whole: PartialAttention) =>
      pages.map(({ blocks }, kvHead) => groupMass(tiles, whole, blocks.length, kvHead, heads / kvHeads))
    return { partial, massIn }
  }

  async #runTile(
    layer: number,
    q: Float32Array,
    pages: readonly HeadPages[],
    first: number,
    width: number,
  ): Promise<Tile> {
    const { heads, kvHeads, headDim } = this.#config
    const slabs = this.#slabs
    const keys = width * BLOCK_TOKENS
    const keyRuns = new Int32Array(kvHeads * width)
    const valueRuns = new Int32Array(kvHeads * width)
    const mask = new Float32Array(kvHeads * keys)
    for (const [head, { blocks, lastTokens }] of pages.entries()) {
      for (let i = 0; i < width; i++) {
        const block = blocks[first + i] ?? slabs.zeroBlock
        keyRuns[head * width + i] = slabs.keyRun(block, head)
        valueRuns[head * width + i] = slabs.valueRun(block, head)
      }
      const tokens = blocks.length === 0 ? 0 : (blocks.length - 1) * BLOCK_TOKENS + lastTokens
      const visible = Math.min(keys, Math.max(0, tokens - first * BLOCK_TOKENS))
      mask.fill(Number.NEGATIVE_INFINITY, head * keys + visible, (head + 1) * keys)
    }
    const alone = heads === kvHeads
    const result = await this.#session.run({
      q: new Tensor('float32', alone ? doubleRows(q, headDim) : q, [
        kvHeads,
        Math.max(2, heads / kvHeads),
        headDim,
      ]),
      ...slabInputs(slabs, layer, headDim),
      keyRuns: new Tensor('int32', keyRuns, [kvHeads, width]),
      valueRuns: new Tensor('int32', valueRuns, [kvHeads, width]),
      mask: new Tensor('float32', mask, [kvHeads, 1, keys]),
    })
    const rowsOf = (tensor: Tensor | undefined, size: number) =>
      alone ? everySecondRow(floats(tensor), size) : floats(tensor)
    const tile = {
      output: rowsOf(result.output, headDim),
      max: rowsOf(result.max, 1),
      sum: rowsOf(result.sum, 1),
      pageSums: rowsOf(result.pageSums, width),
      firstPage: first,
      pages: width,
    }
    for (let head = 0; head < heads; head++) {
      // Every key is masked: −∞ − −∞ is not a number.
      if (tile.max[head] !== Number.NEGATIVE_INFINITY) continue
      tile.sum[head] = 0
      tile.output.fill(0, head * headDim, (head + 1) * headDim)
      tile.pageSums.fill(0, head * width, (head + 1) * width)
    }
    return tile
  }
}

function groupMass(
  tiles: readonly Tile[],
  whole: PartialAttention,
  pages: number,
  kvHead: number,
  group: number,
): Float32Array {
  const mass = new Float32Array(pages)
  for (const tile of tiles) {
    for (let head = kvHead * group; head < (kvHead + 1) * group; head++) {
      const share = shareOfMerged(tile, whole, head) / group
      for (let i = 0; i < tile.pages && tile.firstPage + i < pages; i++) {
        const at = tile.firstPage + i
        mass[at] = (mass[at] ?? 0) + share * (tile.pageSums[head * tile.pages + i] ?? 0)
      }
    }
  }
  return mass
}
