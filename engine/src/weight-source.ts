import type { PackedLayout, PackedMatrix } from './packed-matrix.js'

/** Where weights come from: safetensors or GGUF files or a seed. Nothing larger than one tensor is held for the caller. */
export interface WeightSource {
  /**
   * Fills `target` with the whole tensor as f32, row-major.
   * Throws InvalidInputError when it is missing, of another shape, or damaged.
   */
  read(tensor: string, shape: readonly number[], target: Float32Array): void
  /**
   * Fills `target` with the rows of a `[rows, columns]` matrix from `firstRow` on, as many as it has room for:
   * for matrices too large to be held as f32. Throws as `read` does.
   */
  readRows(tensor: string, shape: readonly [number, number], firstRow: number, target: Float32Array): void
  /**
   * Access to single rows of a `[rows, columns]` tensor, for embeddings. What is kept in memory
   * is in the stored precision. The function outlives `close`.
   */
  rows(tensor: string, shape: readonly [number, number]): (row: number, target: Float32Array) => void
  /**
   * A `[rows, columns]` matrix that is stored in blocks of a few bits, without loss in such a form; undefined for one that
   * is stored otherwise. Absent where nothing is ever stored so. Throws as `read` does.
   */
  packed?(tensor: string, shape: readonly [number, number]): PackedMatrix | undefined
  /** Bytes of a tensor as it is stored, which is what `rows` keeps; 0 for one that is made anew. Throws as `read` does. */
  storedBytes(tensor: string, shape: readonly number[]): number
  /** What `packed` would give; undefined where it would give nothing. Throws as `read` does. */
  packedLayout?(tensor: string, shape: readonly [number, number]): PackedLayout | undefined
  close(): void
}
