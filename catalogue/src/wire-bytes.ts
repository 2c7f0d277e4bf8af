/** How large KV is between devices, which depends on the profile alone (docs/numerics.md), so that any two of one profile understand each other. */
import type { ModelSpec } from './specs.js'

const F32_BYTES = 4
/** An f32 for each token and head, of K and of V. */
const SCALE_BYTES = 4

/** Bytes of a token's KV over all layers as it is sent: f32 in profile exact, 8 bits and scales in profile paper. */
export function wireBytesPerToken(
  { kvValuesPerToken, headDim }: Pick<ModelSpec, 'kvValuesPerToken' | 'headDim'>,
  profile: 'exact' | 'paper',
): number {
  if (profile === 'exact') return kvValuesPerToken * F32_BYTES
  return kvValuesPerToken + (kvValuesPerToken / headDim) * SCALE_BYTES
}
