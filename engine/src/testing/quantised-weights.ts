/** Weights as a model in int4 has them, as f32: what is left between it and the reference are activations and KV in 8 bits. */
import { INT4_BLOCK, type Int4Quantiser } from '../int4-quantiser.js'
import { dequantiseRows, quantiseRows } from '../kv-format.js'
import type { WeightSource } from '../weight-source.js'

export function quantisedWeights(source: WeightSource, { values, run }: Int4Quantiser): WeightSource {
  const in4Bits = (block: Float32Array) => {
    values.fill(0, 0, INT4_BLOCK).set(block)
    const { quants, scales } = run(1)
    for (let i = 0; i < block.length; i++) {
      block[i] = ((((quants[i >> 1] ?? 0) >> (4 * (i % 2))) & 15) - 8) * (scales[0] ?? 0)
    }
  }
  const in8Bits = (block: Float32Array) => {
    const [integers, scales] = [new Int8Array(block.length), new Float32Array(1)]
    quantiseRows(block, block.length, integers, scales)
    dequantiseRows(integers, scales, block.length, block)
  }
  return {
    ...source,
    read(tensor, shape, target) {
      source.read(tensor, shape, target)
      const columns = shape[1]
      if (columns === undefined) return
      // The head, which may be the table of embeddings, has 8 bits.
      const quantise = tensor.startsWith('model.layers') ? in4Bits : in8Bits
      for (let row = 0; row < target.length; row += columns) {
        for (let at = 0; at < columns; at += INT4_BLOCK) {
          quantise(target.subarray(row + at, row + Math.min(columns, at + INT4_BLOCK)))
        }
      }
    },
  }
}
