/**
 * Rows of a quantised tensor in the layout of MatMulNBits, without loss: the quants stay as they are but for
 * their order and zero point, scales become f32, minima become offsets.
 */
import type { PackedLayout, PackedMatrix } from '../packed-matrix.js'
import { storedBlocks, UnpackedBlock } from './stored-blocks.js'
import { blockLayout, type GgufTensorType } from './tensor-types.js'

export interface RowPacker {
  readonly matrix: PackedMatrix
  /** Puts the row that begins at byte `at` into the matrix's row `row`. */
  pack(bytes: Uint8Array, at: number, row: number): void
}

/** Undefined for a type that is not quantised. */
export function rowPacker(type: GgufTensorType, rows: number, columns: number): RowPacker | undefined {
  const stored = storedBlocks(type)
  if (stored === undefined) return undefined
  const { subBlock, packedBits: bits, unpack, centre, hasMinima } = stored
  const layout = blockLayout(type)
  const perRow = columns / subBlock
  const rowBytes = (columns * bits) / 8
  const quants = new Uint8Array(rows * rowBytes)
  const scales = new Float32Array(rows * perRow)
  const offsets = hasMinima ? new Float32Array(rows * perRow) : undefined
  const matrix: PackedMatrix = {
    bits,
    blockSize: subBlock,
    rows,
    columns,
    quants,
    scales,
    ...(offsets && { offsets }),
  }
  const block = new UnpackedBlock()
  const shift = 2 ** (bits - 1) - centre
  const subBlocks = layout.elements / subBlock
  return {
    matrix,
    pack(bytes, at, row) {
      let to = row * rowBytes
      let scaleAt = row * perRow
      for (let done = 0, from = at; done < columns; done += layout.elements, from += layout.bytes) {
        unpack(bytes, from, block)
        if (bits === 4) to = putNibbles(block.quants, layout.elements, quants, to)
        else to = putBytes(block.quants, layout.elements, shift, quants, to)
        for (let sub = 0; sub < subBlocks; sub++, scaleAt++) {
          const scale = block.scales[sub] ?? 0
          scales[scaleAt] = scale
          if (offsets) offsets[scaleAt] = (block.minima[sub] ?? 0) + centre * scale
        }
      }
    },
  }
}

/** Undefined for a type that is not quantised. */
export function packedLayout(type: GgufTensorType): PackedLayout | undefined {
  const stored = storedBlocks(type)
  return stored && { bits: stored.packedBits, blockSize: stored.subBlock, hasOffsets: stored.hasMinima }
}

/** Returns where the next one goes. All types of 4 bits have MatMulNBits' own zero point. */
function putNibbles(from: Uint8Array, count: number, target: Uint8Array, at: number): number {
  for (let i = 0; i < count; i += 2) target[at++] = (from[i] ?? 0) | ((from[i + 1] ?? 0) << 4)
  return at
}

function putBytes(from: Uint8Array, count: number, shift: number, target: Uint8Array, at: number): number {
  for (let i = 0; i < count; i++) target[at + i] = (from[i] ?? 0) + shift
  return at + count
}
