/** Memory of a slab. The system zeroes it when it is first touched, so what is never used costs nothing. */
import { InvalidInputError } from '@kvasir/runtime/errors'

/** Throws InvalidInputError where the machine cannot give as much. */
export function slabMemory(bytes: number): ArrayBuffer {
  try {
    return new ArrayBuffer(bytes)
  } catch (cause) {
    throw new InvalidInputError(
      `This machine cannot give ${bytes} bytes to the KV blocks of one layer; choose a smaller tier.`,
      { param: 'tierBytes', cause },
    )
  }
}
