/**
 * How graphs read a layer's KV slab in place: as inputs, of which they gather runs of 16 tokens of a head.
 *
 * In int8 the integers are what is multiplied; their scales, one a token, are multiplied into the scores
 * and the weights instead, which are fewer numbers than keys and values.
 */
import { Tensor } from 'onnxruntime-node'
import { BLOCK_TOKENS } from './device-driver.js'
import type { KvSlabs } from './kv-slab.js'
import type { KvFormat } from './numerics.js'
import type { GraphBuilder } from './onnx-graph.js'

const CAST_TO_FLOAT = { to: 1 } as const

export function addSlabInputs(graph: GraphBuilder, format: KvFormat, headDim: number): void {
  graph.input('slab', format === 'f32' ? 'float32' : 'int8', ['runs', BLOCK_TOKENS, headDim])
  if (format === 'int8') graph.input('scales', 'float32', ['runs', BLOCK_TOKENS])
}

/** What a graph with these inputs is given for one layer. */
export function slabInputs(slabs: KvSlabs, layer: number, headDim: number): Readonly<Record<string, Tensor>> {
  const { values, scales } = slabs.layer(layer)
  const shape = [slabs.runs, BLOCK_TOKENS, headDim]
  if (values instanceof Float32Array) return { slab: new Tensor('float32', values, shape) }
  return {
    slab: new Tensor('int8', values, shape),
    scales: new Tensor('float32', scales ?? new Float32Array(0), [slabs.runs, BLOCK_TOKENS]),
  }
}

/** Gathers the runs that the input `runs` names as f32, reshaped to `shape`, a constant, as `output`. */
export function gatherRuns(
  graph: GraphBuilder,
  format: KvFormat,
  { runs, shape, output }: { readonly runs: string; readonly shape: string; readonly output: string },
): void {
  const blocks = `${output}Blocks`
  graph.node('Gather', ['slab', runs], [blocks], { axis: 0 })
  if (format === 'f32') {
    graph.node('Reshape', [blocks, shape], [output])
    return
  }
  graph.node('Reshape', [blocks, shape], [`${output}Integers`])
  graph.node('Cast', [`${output}Integers`], [output], CAST_TO_FLOAT)
}

/**
 * Multiplies `values` by the scales of the tokens of `runs`, brought to `shape`; returns what the product is
 * called, which in f32 is `values` itself.
 */
export function scaleByToken(
  graph: GraphBuilder,
  format: KvFormat,
  {
    values,
    runs,
    shape,
  }: { readonly values: string; readonly runs: string; readonly shape: readonly number[] },
): string {
  if (format === 'f32') return values
  const scales = `${runs}Scales`
  graph.node('Gather', ['scales', runs], [`${scales}Blocks`], { axis: 0 })
  graph.node('Reshape', [`${scales}Blocks`, graph.integers(`${scales}Shape`, shape)], [scales])
  graph.node('Mul', [values, scales], [`${values}Scaled`])
  return `${values}Scaled`
}
