/** Where weights come from: safetensors files or a seed. Nothing larger than one tensor is held for the caller. */
export interface WeightSource {
  /**
   * Fills `target` with the whole tensor as f32, row-major.
   * Throws InvalidInputError when it is missing, of another shape, or damaged.
   */
  read(tensor: string, shape: readonly number[], target: Float32Array): void
  /**
   * Access to single rows of a `[rows, columns]` tensor, for embeddings. What is kept in memory
   * is in the stored precision. The function outlives `close`.
   */
  rows(tensor: string, shape: readonly [number, number]): (row: number, target: Float32Array) => void
  close(): void
}
