/**
 * In which numbers a model is computed and its KV kept.
 *
 * M1 `exact` is f32 everywhere. In `paper` (GLITCHES, FlightLLM) a GPU computes in float and an FPGA with
 *    weights in 4 bits, activations and KV in 8; all of them send KV in 8 bits.
 * M2 Devices of one profile understand each other's KV: what is on the wire depends on the profile alone.
 */

/** Elements of weights: int4 goes with activations quantised to 8 bits in every matrix product. */
export type WeightFormat = 'f32' | 'int4'

/** Elements of K and V: int8 has one f32 scale for each token of each head (kv-format.ts). */
export type KvFormat = 'f32' | 'int8'

export interface Numerics {
  readonly weights: WeightFormat
  /** In the device's own pool. */
  readonly pool: KvFormat
  /** In what `readBlocks` gives and `writeBlocks` takes. */
  readonly wire: KvFormat
}

export const EXACT: Numerics = { weights: 'f32', pool: 'f32', wire: 'f32' }
export const PAPER_FLOAT: Numerics = { weights: 'f32', pool: 'f32', wire: 'int8' }
export const PAPER_QUANTISED: Numerics = { weights: 'int4', pool: 'int8', wire: 'int8' }

/** Short, for people and reports: f32, f32+kv8, w4a8+kv8. */
export function numericsName({ weights, pool, wire }: Numerics): string {
  const matrix = weights === 'int4' ? 'w4a8' : 'f32'
  if (pool === 'int8') return `${matrix}+kv8`
  return wire === 'int8' ? `${matrix}+wire8` : matrix
}
