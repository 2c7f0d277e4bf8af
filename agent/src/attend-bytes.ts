/**
 * Numbers in messages: f32 and uint32, little-endian as the machines that run agents are.
 *
 * What goes out is a view, encoded before the array changes; what comes in is copied once into
 * memory of its own, since a message's bytes stand at any offset and a driver may take its input away.
 */
import { CorruptDataError } from '@kvasir/runtime/errors'

/** The bytes of an array, not copied. */
export function bytesOf(values: Float32Array | Uint32Array): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength)
}

/** Throws CorruptDataError where the bytes are no whole floats. */
export function floatsOf(bytes: Uint8Array): Float32Array {
  const floats = new Float32Array(wordsOf(bytes))
  new Uint8Array(floats.buffer).set(bytes)
  return floats
}

/** Throws CorruptDataError where the bytes are no whole numbers of 32 bits. */
export function uintsOf(bytes: Uint8Array): Uint32Array {
  const numbers = new Uint32Array(wordsOf(bytes))
  new Uint8Array(numbers.buffer).set(bytes)
  return numbers
}

function wordsOf({ byteLength }: Uint8Array): number {
  const words = byteLength / 4
  if (Number.isInteger(words)) return words
  throw new CorruptDataError(`${byteLength} bytes are no whole number of 32-bit values.`)
}
