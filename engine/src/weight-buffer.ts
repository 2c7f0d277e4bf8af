/**
 * One growing buffer that the large weights of a graph are read into, one graph after the other: what
 * loading takes beside the loaded model is its largest graph.
 */
import type { WeightSource } from './weight-source.js'

/** Offsets of large constants: whole cache lines. */
const ALIGNMENT_BYTES = 64

export class WeightBuffer {
  readonly source: WeightSource
  #bytes = new Uint8Array(0)
  #used = 0

  constructor(source: WeightSource) {
    this.source = source
  }

  clear(): void {
    this.#used = 0
  }

  /** Takes room for one constant; `view` stands until the next call. */
  take(bytes: number): { readonly offset: number; readonly view: Uint8Array<ArrayBuffer> } {
    const offset = Math.ceil(this.#used / ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    this.#used = offset + bytes
    if (this.#used > this.#bytes.length) {
      const larger = new Uint8Array(this.#used)
      larger.set(this.#bytes)
      this.#bytes = larger
    }
    return { offset, view: this.#bytes.subarray(offset, offset + bytes) }
  }

  /** A vector that goes into the model's own bytes. */
  small(tensor: string, size: number): Float32Array {
    const values = new Float32Array(size)
    this.source.read(tensor, [size], values)
    return values
  }

  bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#used)
  }
}
