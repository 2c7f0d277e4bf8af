/**
 * The attention graph, one for all layers: it has no weights, and reads the layer's KV slab in place.
 *
 * A1 A query row's result does not depend on how many keys are masked behind it, on the other rows,
 *    or on the other sequences of the call. That rests on facts of ONNX Runtime's matrix kernel,
 *    kept by the callers: every product has at least two rows (a single one takes another kernel),
 *    the number of keys is a multiple of BLOCK_TOKENS, and the product with V is never divided
 *    among threads along the head dimension (it would then add its keys in blocks of another size).
 * A2 Masked keys have a weight of exactly zero.
 *
 * Inputs: `q [batch, rows, kv heads, group, dim]`, where group is query heads per KV head;
 * `slab [blocks · 2 · kv heads, 16, dim]`, the layer's slab seen as runs of 16 tokens of one head, and with
 * int8 their `scales` (slab-graph.ts);
 * `keyRuns`, `valueRuns [batch, kv heads, blocks of the longest sequence]`, indices of such runs;
 * `mask [batch, 1, 1, rows, keys]`, 0 or −∞; and two shapes that only the caller knows.
 * Output: `attention [batch, rows, kv heads, group, dim]`, and with `pageMass` also
 * `pageMass [batch, kv heads, blocks]`, the weight of each block, mean over the rows and the group; it is
 * read off the weights and changes no bit of `attention`.
 */
import { BLOCK_TOKENS } from './device-driver.js'
import type { ModelConfig } from './model-config.js'
import type { KvFormat } from './numerics.js'
import { GraphBuilder } from './onnx-graph.js'
import { addSlabInputs, gatherRuns, scaleByToken } from './slab-graph.js'

export function buildAttentionGraph(
  { headDim, heads, kvHeads }: ModelConfig,
  pool: KvFormat,
  { pageMass = false }: { readonly pageMass?: boolean } = {},
): Uint8Array {
  const group = heads / kvHeads
  const graph = new GraphBuilder()
  graph.input('q', 'float32', ['batch', 'rows', kvHeads, group, headDim])
  addSlabInputs(graph, pool, headDim)
  graph.input('keyRuns', 'int32', ['batch', kvHeads, 'blocks'])
  graph.input('valueRuns', 'int32', ['batch', kvHeads, 'blocks'])
  graph.input('mask', 'float32', ['batch', 1, 1, 'rows', 'keys'])
  graph.input('scoresByRow', 'int64', [5])
  graph.input('scoresFlat', 'int64', [4])
  // The heads of a group share K and V, so their rows are one matrix.
  const flat = graph.integers('flat', [0, 0, -1, headDim])
  const overKeys = [0, 0, 1, -1]
  graph.node('Transpose', ['q'], ['qByHead'], { perm: [0, 2, 3, 1, 4] })
  graph.node('Reshape', ['qByHead', flat], ['qFlat'])
  gatherRuns(graph, pool, { runs: 'keyRuns', shape: flat, output: 'keys' })
  gatherRuns(graph, pool, { runs: 'valueRuns', shape: flat, output: 'values' })
  graph.node('FusedMatMul', ['qFlat', 'keys'], ['scores'], {
    transB: 1,
    alpha: { float: 1 / Math.sqrt(headDim) },
  })
  const scores = scaleByToken(graph, pool, { values: 'scores', runs: 'keyRuns', shape: overKeys })
  graph.node('Reshape', [scores, 'scoresByRow'], ['rowScores'])
  graph.node('Add', ['rowScores', 'mask'], ['maskedScores'])
  graph.node('Softmax', ['maskedScores'], ['rowWeights'], { axis: -1 })
  graph.node('Reshape', ['rowWeights', 'scoresFlat'], ['weights'])
  const weights = scaleByToken(graph, pool, { values: 'weights', runs: 'valueRuns', shape: overKeys })
  graph.node('MatMul', [weights, 'values'], ['attended'])
  graph.node('Reshape', ['attended', graph.integers('byGroup', [0, 0, group, -1, headDim])], ['byHead'])
  graph.node('Transpose', ['byHead'], ['attention'], { perm: [0, 3, 1, 2, 4] })
  graph.output('attention', ['batch', 'rows', kvHeads, group, headDim])
  if (pageMass) {
    graph.node(
      'Reshape',
      ['weights', graph.integers('byBlock', [0, 0, 0, -1, BLOCK_TOKENS])],
      ['blockWeights'],
    )
    graph.node('ReduceSum', ['blockWeights', graph.integers('tokens', [-1])], ['blockSums'], { keepdims: 0 })
    graph.node('ReduceMean', ['blockSums', graph.integers('rows', [2])], ['pageMass'], { keepdims: 0 })
    graph.output('pageMass', ['batch', kvHeads, 'blocks'])
  }
  return graph.build('attention')
}
