/**
 * The graphs with weights, cut where attention stands between them, so that a step runs one a layer:
 *
 *   first   norm 0, q·k·v of layer 0, rotary positions
 *   middle  o-projection, residual, norm, MLP, residual of layer i; norm, q·k·v, positions of layer i+1
 *   last    o-projection, residual, norm, MLP, residual of the last layer; final norm, head
 *
 * G1 Weights are constants of the graph: rows are then bit-equal whatever their number.
 * G2 Weights stay as files hold them, `[outputs, inputs]`; q, k, v and gate, up are joined by rows. In which
 *    numbers they are is the matter of matrix-product.ts.
 * Tensors: `x [1, rows, hidden]`, `q`, `attention [1, rows, heads · dim]`, `k`, `v [1, rows, kv heads · dim]`;
 * `cos`, `sin`: tables that hold at least the positions of the rows (rotary.ts).
 */
import type { Int4Quantiser } from './int4-quantiser.js'
import { addProduct, type ProductMaker } from './matrix-product.js'
import type { ModelConfig } from './model-config.js'
import { GraphBuilder } from './onnx-graph.js'
import { WeightBuffer } from './weight-buffer.js'
import type { WeightSource } from './weight-source.js'

export interface DenseGraph {
  readonly model: Uint8Array
  /** What the model's constants refer to: valid until the next graph is built. */
  readonly weights: Uint8Array
}

/**
 * Builds the graphs in order, all into one buffer for weights, which makes the peak of memory one
 * graph. With a quantiser the weights are of few bits (matrix-product.ts).
 */
export function* buildDenseGraphs(
  config: ModelConfig,
  source: WeightSource,
  quantiser?: Int4Quantiser,
): Generator<DenseGraph> {
  const buffer = new WeightBuffer(source)
  const maker = { buffer, quantiser }
  for (let index = 0; index <= config.layers; index++) {
    buffer.clear()
    const graph = new GraphBuilder()
    const last = index === config.layers
    // What is normed next, and the residual stream beside it.
    let normed = 'normed'
    const gamma = graph.floats(
      'inputNorm',
      maker.buffer.small(
        last ? 'model.norm.weight' : `model.layers.${index}.input_layernorm.weight`,
        config.hiddenSize,
      ),
    )
    graph.input('x', 'float32', [1, 'rows', config.hiddenSize])
    if (index === 0) {
      graph.node('SimplifiedLayerNormalization', ['x', gamma], [normed], {
        epsilon: { float: config.normEpsilon },
        axis: -1,
      })
    } else {
      const mlp = afterAttention(graph, maker, config, index - 1)
      normed = skipNorm(graph, config, mlp.delta, mlp.residual, gamma, last ? '' : 'nextX')
    }
    if (last) {
      const head = config.tiedEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight'
      addProduct(graph, maker, {
        input: normed,
        output: 'logits',
        matrices: [{ tensor: head, rows: config.vocabularySize }],
        columns: config.hiddenSize,
        precise: true,
      })
      graph.output('logits', [1, 'rows', config.vocabularySize])
    } else {
      if (index > 0) graph.output('nextX', [1, 'rows', config.hiddenSize])
      queryKeyValue(graph, maker, config, index, normed)
    }
    yield { model: graph.build(last ? 'head' : `layer-${index}`), weights: buffer.bytes() }
  }
}

function afterAttention(graph: GraphBuilder, maker: ProductMaker, config: ModelConfig, layer: number) {
  const { heads, headDim, hiddenSize, intermediateSize } = config
  const of = (name: string) => `model.layers.${layer}.${name}.weight`
  const width = heads * headDim
  graph.input('attention', 'float32', [1, 'rows', width])
  addProduct(graph, maker, {
    input: 'attention',
    output: 'attended',
    matrices: [{ tensor: of('self_attn.o_proj'), rows: hiddenSize }],
    columns: width,
  })
  const gamma = graph.floats('mlpNorm', maker.buffer.small(of('post_attention_layernorm'), hiddenSize))
  const normed = skipNorm(graph, config, 'attended', 'x', gamma, 'middle')
  addProduct(graph, maker, {
    input: normed,
    output: 'gateUp',
    matrices: ['gate_proj', 'up_proj'].map((name) => ({ tensor: of(`mlp.${name}`), rows: intermediateSize })),
    columns: hiddenSize,
  })
  const halves = graph.integers('halves', [intermediateSize, intermediateSize])
  graph.node('Split', ['gateUp', halves], ['gate', 'up'], { axis: -1 })
  // x · sigmoid(alpha · x) with alpha 1 is SiLU.
  graph.node('QuickGelu', ['gate'], ['gated'], { alpha: { float: 1 } })
  graph.node('Mul', ['gated', 'up'], ['inner'])
  addProduct(graph, maker, {
    input: 'inner',
    output: 'delta',
    matrices: [{ tensor: of('mlp.down_proj'), rows: hiddenSize }],
    columns: intermediateSize,
  })
  return { delta: 'delta', residual: 'middle' }
}

function queryKeyValue(
  graph: GraphBuilder,
  maker: ProductMaker,
  config: ModelConfig,
  layer: number,
  normed: string,
): void {
  const { heads, kvHeads, headDim } = config
  const widths = [heads * headDim, kvHeads * headDim, kvHeads * headDim]
  const projections = ['q_proj', 'k_proj', 'v_proj'].map((name) => `model.layers.${layer}.self_attn.${name}`)
  let joined = addProduct(graph, maker, {
    input: normed,
    output: 'qkv',
    matrices: projections.map((name, i) => ({ tensor: `${name}.weight`, rows: widths[i] ?? 0 })),
    columns: config.hiddenSize,
  })
  if (config.qkvBias) {
    const biases = projections.map((name, i) => maker.buffer.small(`${name}.bias`, widths[i] ?? 0))
    const bias = new Float32Array(widths.reduce((sum, width) => sum + width, 0))
    let offset = 0
    for (const part of biases) {
      bias.set(part, offset)
      offset += part.length
    }
    graph.node('Add', [joined, graph.floats('qkvBias', bias)], ['qkvBiased'])
    joined = 'qkvBiased'
  }
  graph.node('Split', [joined, graph.integers('qkvWidths', widths)], ['qFlat', 'kFlat', 'v'], { axis: -1 })
  let [query, key] = ['qFlat', 'kFlat']
  if (config.qkNorm) {
    const gamma = (name: string) =>
      maker.buffer.small(`model.layers.${layer}.self_attn.${name}.weight`, headDim)
    query = headNorm(graph, config, query, heads, gamma('q_norm'))
    key = headNorm(graph, config, key, kvHeads, gamma('k_norm'))
  }
  graph.input('positions', 'int64', [1, 'rows'])
  graph.input('cos', 'float32', ['tablePositions', headDim / 2])
  graph.input('sin', 'float32', ['tablePositions', headDim / 2])
  graph.node('RotaryEmbedding', [query, 'positions', 'cos', 'sin'], ['q'])
  graph.node('RotaryEmbedding', [key, 'positions', 'cos', 'sin'], ['k'])
  for (const [i, name] of ['q', 'k', 'v'].entries()) graph.output(name, [1, 'rows', widths[i] ?? 0])
}

/** Norms each head of `[1, rows, heads · dim]` by itself. */
function headNorm(
  graph: GraphBuilder,
  { headDim, normEpsilon }: ModelConfig,
  input: string,
  heads: number,
  gamma: Float32Array,
): string {
  const byHead = graph.integers(`${input}ByHead`, [0, 0, heads, headDim])
  const joined = graph.integers(`${input}Joined`, [0, 0, heads * headDim])
  graph.node('Reshape', [input, byHead], [`${input}Heads`])
  graph.node(
    'SimplifiedLayerNormalization',
    [`${input}Heads`, graph.floats(`${input}Norm`, gamma)],
    [`${input}HeadsNormed`],
    { epsilon: { float: normEpsilon }, axis: -1 },
  )
  graph.node('Reshape', [`${input}HeadsNormed`, joined], [`${input}Normed`])
  return `${input}Normed`
}

/** Adds `delta` to the residual stream and norms the sum; `sum` names it if it is needed further on. */
function skipNorm(
  graph: GraphBuilder,
  config: ModelConfig,
  delta: string,
  residual: string,
  gamma: string,
  sum: string,
): string {
  const normed = `${delta}Normed`
  const outputs = sum === '' ? [normed] : [normed, '', '', sum]
  graph.node('SkipSimplifiedLayerNormalization', [delta, residual, gamma], outputs, {
    epsilon: { float: config.normEpsilon },
  })
  return normed
}
