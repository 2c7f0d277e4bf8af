/** Memory of a slab. The system zeroes it when it is first touched, so what is never used costs nothing. */
import { InvalidInputError } from '@kvasir/runtime/errors'

/** Throws InvalidInputError where the machine cannot give as much. */
export function slabMemory(floats: number): Float32Array<ArrayBuffer> {
  try {
    return new Float32Array(floats)
  } catch (cause) {
    throw new InvalidInputError(
      `This machine cannot give ${floats * Float32Array.BYTES_PER_ELEMENT} bytes to the KV blocks of one layer; choose a smaller tier.`,
      { param: 'tierBytes', cause },
    )
  }
}
