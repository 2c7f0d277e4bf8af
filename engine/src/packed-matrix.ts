/**
 * A weight matrix in 4 or 8 bits, in the layout of ONNX Runtime's MatMulNBits.
 *
 * K1 Every row is cut into blocks of `blockSize` columns; a block has one scale, and its elements are
 *    `(quant − zero point) · scale + offset`. Without `zeroPoints` the zero point is 2^(bits − 1), without `offsets` the
 *    offset is 0.
 * K2 A row depends on itself alone: matrices of equal columns are joined one under the other, and rows are
 *    moved, by copying whole rows of each array.
 *
 * Offsets are how formats with a minimum for each block (Q4_1, Q4_K) fit without loss. MatMulNBits takes zero
 * points in floats for 4 bits only, and unpacks the whole matrix on each call to apply them: a hundred
 * times slower. What offsets add to a product is small and exact instead: `offsets · (sums of the input over each
 * block of columns)`, a product with 1/blockSize of the columns.
 */

export interface PackedMatrix {
  readonly bits: 4 | 8
  /** Columns of a block: a power of two, 16 or more. */
  readonly blockSize: number
  readonly rows: number
  /** The last block of a row is filled up with elements of no effect where columns are no multiple. */
  readonly columns: number
  /** `[rows, blocks of a row, blockSize · bits / 8]`; of two 4-bit elements the first is in the low half. */
  readonly quants: Uint8Array
  /** `[rows, blocks of a row]`. */
  readonly scales: Float32Array
  /** `[rows, ⌈blocks of a row · bits / 8⌉]`, packed as the quants. */
  readonly zeroPoints?: Uint8Array
  /** `[rows, blocks of a row]`. */
  readonly offsets?: Float32Array
}

/** How a matrix is packed, without its numbers. */
export interface PackedLayout {
  readonly bits: 4 | 8
  readonly blockSize: number
  readonly hasOffsets: boolean
}

export function blocksOfRow({ columns, blockSize }: Pick<PackedMatrix, 'columns' | 'blockSize'>): number {
  return Math.ceil(columns / blockSize)
}
