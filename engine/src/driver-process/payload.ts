/**
 * Numbers in a payload: arrays one after another, little-endian, which is what this machine's processor has
 * too (Node runs on no other).
 */
import { CorruptDataError } from '@kvasir/runtime/errors'

type Numbers = Float32Array | Float64Array | Uint32Array

/** The bytes of numbers, where they stand. */
export function bytesOf(numbers: Numbers): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)
}

/** The bytes of numbers that may change meanwhile. */
export function copiedBytesOf(numbers: Numbers): Uint8Array {
  return bytesOf(numbers).slice()
}

/** Takes arrays from a payload in order; what it gives are views. `end` must be called last. */
export class PayloadReader {
  readonly #bytes: Uint8Array<ArrayBuffer>
  #at = 0

  /** `bytes`: the whole of its buffer, as FrameReader gives it. */
  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.#bytes = bytes
  }

  /** Bytes that were not taken yet. */
  get rest(): number {
    return this.#bytes.length - this.#at
  }

  /** Each throws CorruptDataError where fewer are left. */
  floats(count: number): Float32Array<ArrayBuffer> {
    return new Float32Array(this.#bytes.buffer, this.#take(count, 4), count)
  }

  /** All that is left. */
  restFloats(): Float32Array<ArrayBuffer> {
    const floats = this.floats(Math.floor(this.rest / Float32Array.BYTES_PER_ELEMENT))
    this.end()
    return floats
  }

  words(count: number): Uint32Array<ArrayBuffer> {
    return new Uint32Array(this.#bytes.buffer, this.#take(count, 4), count)
  }

  /** Must come before any array of smaller numbers. */
  doubles(count: number): Float64Array<ArrayBuffer> {
    return new Float64Array(this.#bytes.buffer, this.#take(count, 8), count)
  }

  /** Throws CorruptDataError where anything is left. */
  end(): void {
    if (this.rest > 0) throw new CorruptDataError(`A payload has ${this.rest} bytes too many.`)
  }

  #take(count: number, size: number): number {
    const at = this.#at
    this.#at += count * size
    if (this.rest >= 0) return at
    throw new CorruptDataError(`A payload of ${this.#bytes.length} bytes lacks ${-this.rest}.`)
  }
}
