/**
 * The bytes that a model's weights take once they are loaded, worked out without reading them.
 *
 * Z1 It follows the graphs (dense-graphs.ts, matrix-product.ts): in f32 every matrix takes 4 bytes a weight; in
 *    int4 what is stored in a few bits stays as it is, and the rest becomes 4 bits, the head 8. The table of
 *    embeddings stays as it is stored, beside a head that is the same matrix.
 * Z2 A block of few bits has one scale, of which ONNX Runtime keeps two copies and what the block sums up to: 28
 *    bytes for 32 weights in 4 bits, as measured with Llama 2 7B.
 */
import { INT4_BLOCK } from './int4-quantiser.js'
import type { ModelConfig } from './model-config.js'
import type { WeightFormat } from './numerics.js'
import type { PackedLayout } from './packed-matrix.js'
import type { WeightSource } from './weight-source.js'

export interface WeightSizes {
  /** All of them, embeddings included. */
  readonly residentBytes: number
  /** The largest graph's, which loading holds twice. */
  readonly largestGraphBytes: number
}

interface Matrix {
  readonly tensor: string
  readonly shape: readonly [number, number]
  readonly precise?: boolean
}

/** Of a block. */
const SCALE_BYTES = 3 * 4

/** Throws as the source's `read` does. */
export function weightSizes(config: ModelConfig, source: WeightSource, format: WeightFormat): WeightSizes {
  const { hiddenSize, vocabularySize, layers, tiedEmbeddings } = config
  const sum = (matrices: readonly Matrix[]) =>
    matrices.reduce((bytes, matrix) => bytes + matrixBytes(matrix, source, format), 0)
  const table = 'model.embed_tokens.weight'
  const head: Matrix = {
    tensor: tiedEmbeddings ? table : 'lm_head.weight',
    shape: [vocabularySize, hiddenSize],
    precise: true,
  }
  // A graph ends where attention stands: it begins with the rest of the layer before.
  let residentBytes = source.storedBytes(table, [vocabularySize, hiddenSize])
  let largestGraphBytes = 0
  for (let index = 0; index <= layers; index++) {
    const bytes =
      (index === 0 ? 0 : sum(afterAttention(config, index - 1))) +
      sum(index === layers ? [head] : beforeAttention(config, index))
    residentBytes += bytes
    largestGraphBytes = Math.max(largestGraphBytes, bytes)
  }
  return { residentBytes, largestGraphBytes }
}

function beforeAttention({ hiddenSize, heads, kvHeads, headDim }: ModelConfig, layer: number): Matrix[] {
  return Object.entries({ q_proj: heads, k_proj: kvHeads, v_proj: kvHeads }).map(([name, count]) => ({
    tensor: `model.layers.${layer}.self_attn.${name}.weight`,
    shape: [count * headDim, hiddenSize],
  }))
}

function afterAttention(config: ModelConfig, layer: number): Matrix[] {
  const { hiddenSize, heads, headDim, intermediateSize } = config
  return [
    ['self_attn.o_proj', hiddenSize, heads * headDim] as const,
    ['mlp.gate_proj', intermediateSize, hiddenSize] as const,
    ['mlp.up_proj', intermediateSize, hiddenSize] as const,
    ['mlp.down_proj', hiddenSize, intermediateSize] as const,
  ].map(([name, rows, columns]) => ({
    tensor: `model.layers.${layer}.${name}.weight`,
    shape: [rows, columns],
  }))
}

function matrixBytes(
  { tensor, shape, precise = false }: Matrix,
  source: WeightSource,
  format: WeightFormat,
): number {
  const [rows, columns] = shape
  if (format === 'f32') return rows * columns * 4
  const made: PackedLayout = { bits: precise ? 8 : 4, blockSize: INT4_BLOCK, hasOffsets: false }
  const { bits, blockSize, hasOffsets } = source.packedLayout?.(tensor, shape) ?? made
  const blocks = rows * Math.ceil(columns / blockSize)
  return blocks * ((blockSize * bits) / 8 + SCALE_BYTES + (hasOffsets ? 4 : 0))
}
