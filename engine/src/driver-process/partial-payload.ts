/** A partial attention in a payload: output, then max, then sum. */
import type { LoadedModelFacts, PartialAttention } from '../device-driver.js'
import { bytesOf, type PayloadReader } from './payload.js'

/** Throws CorruptDataError where the payload is shorter. */
export function partialFrom(
  payload: PayloadReader,
  { heads, headDim }: Pick<LoadedModelFacts, 'heads' | 'headDim'>,
): PartialAttention {
  return {
    output: payload.floats(heads * headDim),
    max: payload.floats(heads),
    sum: payload.floats(heads),
  }
}

export function partialBytes({ output, max, sum }: PartialAttention): Uint8Array[] {
  return [bytesOf(output), bytesOf(max), bytesOf(sum)]
}
