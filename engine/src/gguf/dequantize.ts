/** Rows of a stored tensor as f32, exactly as ggml computes them. */
import { bf16ToF32, f16ToF32 } from '../half-floats.js'
import { storedBlocks, UnpackedBlock } from './stored-blocks.js'
import { blockLayout, type GgufTensorType } from './tensor-types.js'

export type RowReader = (bytes: Uint8Array, at: number, target: Float32Array) => void

/**
 * Reads a row that begins at byte `at` into the whole of `target`. `at` and the bytes' own offset are
 * multiples of the element's size.
 */
export function rowReader(type: GgufTensorType): RowReader {
  switch (type) {
    case 'F32':
      return (bytes, at, target) =>
        target.set(new Float32Array(bytes.buffer, bytes.byteOffset + at, target.length))
    case 'F16':
      return (bytes, at, target) => f16ToF32(halves(bytes, at, target.length), target)
    case 'BF16':
      return (bytes, at, target) => bf16ToF32(halves(bytes, at, target.length), target)
    default:
      return blockReader(type)
  }
}

function halves(bytes: Uint8Array, at: number, count: number): Uint16Array {
  return new Uint16Array(bytes.buffer, bytes.byteOffset + at, count)
}

function blockReader(type: GgufTensorType): RowReader {
  const stored = storedBlocks(type)
  if (stored === undefined) throw new RangeError(`${type} has no blocks`)
  const { unpack, subBlock, centre, hasMinima } = stored
  const layout = blockLayout(type)
  const block = new UnpackedBlock()
  const { quants, scales, minima } = block
  const subBlocks = layout.elements / subBlock
  return (bytes, at, target) => {
    let element = 0
    for (let from = at; element < target.length; from += layout.bytes) {
      unpack(bytes, from, block)
      for (let sub = 0; sub < subBlocks; sub++) {
        const scale = scales[sub] ?? 0
        const base = hasMinima ? (minima[sub] ?? 0) : -centre * scale
        const first = sub * subBlock
        for (let i = 0; i < subBlock; i++) target[element++] = scale * (quants[first + i] ?? 0) + base
      }
    }
  }
}
