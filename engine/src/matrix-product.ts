/**
 * Products with weights, as nodes of a graph: `output = input · Wᵀ`, W being matrices joined by rows.
 *
 * P1 In f32 the product is a matrix product with a constant. In int4 it is MatMulNBits with activations
 *    quantised to 8 bits (accuracy level 4): both give a row the same bits whatever the other rows are.
 * P2 In int4 a matrix that is stored in a few bits stays as it is stored; any other is quantised here, a
 *    few rows at a time: into 4 bits, or into 8 where `precise` says that its errors weigh more.
 */
import type { Int4Quantiser } from './int4-quantiser.js'
import { INT4_BLOCK } from './int4-quantiser.js'
import { quantiseRows } from './kv-format.js'
import type { GraphBuilder } from './onnx-graph.js'
import { blocksOfRow, type PackedMatrix } from './packed-matrix.js'
import type { WeightBuffer } from './weight-buffer.js'

/** A stored matrix and its rows. */
export interface StoredMatrix {
  readonly tensor: string
  readonly rows: number
}

/** What products are made with. */
export interface ProductMaker {
  readonly buffer: WeightBuffer
  /** Absent: weights stay f32. */
  readonly quantiser: Int4Quantiser | undefined
}

interface Product {
  readonly input: string
  readonly output: string
  readonly matrices: readonly StoredMatrix[]
  readonly columns: number
  readonly precise?: boolean
}

/** Adds the product to a graph; returns its output. */
export function addProduct(
  graph: GraphBuilder,
  { buffer, quantiser }: ProductMaker,
  { input, output, matrices, columns, precise = false }: Product,
): string {
  if (quantiser === undefined) {
    const rows = matrices.reduce((sum, matrix) => sum + matrix.rows, 0)
    const { offset, view } = buffer.take(rows * columns * 4)
    const values = new Float32Array(view.buffer, view.byteOffset, rows * columns)
    let at = 0
    for (const { tensor, rows } of matrices) {
      buffer.source.read(tensor, [rows, columns], values.subarray(at, at + rows * columns))
      at += rows * columns
    }
    const weights = graph.weights(`${output}Weights`, 'float32', [rows, columns], offset)
    graph.node('FusedMatMul', [input, weights], [output], { transB: 1 })
    return output
  }
  const stored = matrices.map(({ tensor, rows }) => buffer.source.packed?.(tensor, [rows, columns]))
  const packed = matrices.map(({ tensor, rows }, i) => {
    const found = stored[i]
    if (found !== undefined) return found
    const source = (firstRow: number, target: Float32Array) =>
      buffer.source.readRows(tensor, [rows, columns], firstRow, target)
    return precise ? packIn8Bits(source, rows, columns) : packIn4Bits(source, rows, columns, quantiser)
  })
  if (packed.every((matrix) => isAlike(matrix, packed[0]))) {
    return addPacked(graph, buffer, input, output, packed)
  }
  const parts = packed.map((matrix, i) => addPacked(graph, buffer, input, `${output}${i}`, [matrix]))
  graph.node('Concat', parts, [output], { axis: -1 })
  return output
}

/** Whether the matrices can be joined. */
function isAlike(a: PackedMatrix, b: PackedMatrix | undefined): boolean {
  return (
    a.bits === b?.bits &&
    a.blockSize === b.blockSize &&
    (a.zeroPoints === undefined) === (b.zeroPoints === undefined) &&
    (a.offsets === undefined) === (b.offsets === undefined)
  )
}

/** `matrices` are alike. */
function addPacked(
  graph: GraphBuilder,
  buffer: WeightBuffer,
  input: string,
  output: string,
  matrices: readonly PackedMatrix[],
): string {
  const [first] = matrices
  if (first === undefined) throw new RangeError(`${output} is a product with no matrix`)
  const { bits, blockSize, columns } = first
  const rows = matrices.reduce((sum, matrix) => sum + matrix.rows, 0)
  const blocks = blocksOfRow(first)
  const constant = (
    name: string,
    parts: readonly (Uint8Array | Float32Array)[],
    shape: readonly number[],
  ) => {
    const { offset, view } = buffer.take(parts.reduce((sum, part) => sum + part.byteLength, 0))
    let at = 0
    for (const part of parts) {
      view.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at)
      at += part.byteLength
    }
    const type = parts[0] instanceof Float32Array ? 'float32' : 'uint8'
    return graph.weights(`${output}${name}`, type, shape, offset)
  }
  const inputs = [
    input,
    constant(
      'Quants',
      matrices.map(({ quants }) => quants),
      [rows, blocks, (blockSize * bits) / 8],
    ),
    constant(
      'Scales',
      matrices.map(({ scales }) => scales),
      [rows * blocks],
    ),
  ]
  const zeroPoints = matrices.flatMap((matrix) => matrix.zeroPoints ?? [])
  if (zeroPoints.length > 0) {
    inputs.push(constant('ZeroPoints', zeroPoints, [rows * Math.ceil((blocks * bits) / 8)]))
  }
  const offsets = matrices.flatMap((matrix) => matrix.offsets ?? [])
  const scaled = offsets.length > 0 ? `${output}Scaled` : output
  graph.node('MatMulNBits', inputs, [scaled], {
    K: columns,
    N: rows,
    bits,
    block_size: blockSize,
    accuracy_level: 4,
  })
  if (offsets.length > 0) {
    addOffsets(graph, { input, scaled, output, first, offsets: constant('Offsets', offsets, [rows, blocks]) })
  }
  return output
}

/** What offsets add to a product, see packed-matrix.ts: exact, whatever the activations are quantised to. */
function addOffsets(graph: GraphBuilder, { input, scaled, output, first, offsets }: OffsetProduct): void {
  const { columns, blockSize } = first
  const name = (part: string) => `${output}${part}`
  // Columns are filled up for MatMulNBits alone; stored formats with offsets have whole blocks.
  if (columns % blockSize !== 0) throw new RangeError(`${output} has offsets and no whole number of blocks`)
  const shape = graph.integers(name('ByBlock'), [0, 0, columns / blockSize, blockSize])
  const lastAxis = graph.integers(name('LastAxis'), [-1])
  graph.node('Reshape', [input, shape], [name('Blocks')])
  graph.node('ReduceSum', [name('Blocks'), lastAxis], [name('Sums')], { keepdims: 0 })
  graph.node('FusedMatMul', [name('Sums'), offsets], [name('Offset')], { transB: 1 })
  graph.node('Add', [scaled, name('Offset')], [output])
}

interface OffsetProduct {
  readonly input: string
  readonly scaled: string
  readonly output: string
  readonly first: PackedMatrix
  /** Of all rows. */
  readonly offsets: string
}

type ReadRows = (firstRow: number, target: Float32Array) => void

function packIn4Bits(
  read: ReadRows,
  rows: number,
  columns: number,
  { values, run }: Int4Quantiser,
): PackedMatrix {
  const blocks = Math.ceil(columns / INT4_BLOCK)
  const width = blocks * INT4_BLOCK
  const quants = new Uint8Array((rows * width) / 2)
  const scales = new Float32Array(rows * blocks)
  const tileRows = Math.floor(values.length / width)
  if (tileRows === 0) throw new RangeError(`a row of ${columns} weights is too long to quantise`)
  for (let row = 0; row < rows; row += tileRows) {
    const count = Math.min(tileRows, rows - row)
    if (width === columns) read(row, values.subarray(0, count * width))
    else {
      const tile = new Float32Array(count * columns)
      read(row, tile)
      values.fill(0, 0, count * width)
      for (let i = 0; i < count; i++) {
        values.set(tile.subarray(i * columns, (i + 1) * columns), i * width)
      }
    }
    const found = run(count * blocks)
    quants.set(found.quants, (row * width) / 2)
    scales.set(found.scales, row * blocks)
  }
  return { bits: 4, blockSize: INT4_BLOCK, rows, columns, quants, scales }
}

const INT8_BLOCK = 32
const INT8_ZERO_POINT = 128
const INT8_TILE_ROWS = 64

/** The largest magnitude of a block becomes ±127. */
function packIn8Bits(read: ReadRows, rows: number, columns: number): PackedMatrix {
  const blocks = Math.ceil(columns / INT8_BLOCK)
  const width = blocks * INT8_BLOCK
  const quants = new Uint8Array(rows * width)
  const scales = new Float32Array(rows * blocks)
  const integers = new Int8Array(quants.buffer)
  for (let row = 0; row < rows; row += INT8_TILE_ROWS) {
    const count = Math.min(INT8_TILE_ROWS, rows - row)
    const tile = new Float32Array(count * columns)
    read(row, tile)
    const padded = new Float32Array(count * width)
    for (let i = 0; i < count; i++) padded.set(tile.subarray(i * columns, (i + 1) * columns), i * width)
    quantiseRows(padded, INT8_BLOCK, integers.subarray(row * width), scales.subarray(row * blocks))
  }
  for (let i = 0; i < quants.length; i++) quants[i] = (integers[i] ?? 0) + INT8_ZERO_POINT
  return { bits: 8, blockSize: INT8_BLOCK, rows, columns, quants, scales }
}
