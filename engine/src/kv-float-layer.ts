/**
 * A layer of the KV pool in f32. On the wire its blocks are what they are, or quantised and dequantised there.
 *
 * A sequence mostly has blocks that follow each other in the pool, and copying them one at a time costs a third more.
 */
import { blockRuns } from './block-runs.js'
import { BLOCK_TOKENS } from './device-driver.js'
import { dequantiseRows, type KvBlockShape, kvBlockBytes, quantiseRows } from './kv-format.js'
import { type KvLayer, valuesOfBlock } from './kv-layer.js'
import type { KvFormat } from './numerics.js'
import { slabMemory } from './slab-memory.js'

export class KvFloatLayer implements KvLayer {
  readonly values: Float32Array<ArrayBuffer>
  /** The same memory. */
  readonly #bytes: Uint8Array<ArrayBuffer>
  readonly scales = undefined
  readonly #wire: KvFormat
  readonly #headDim: number
  readonly #blockValues: number
  readonly #wireBytes: number

  constructor(shape: KvBlockShape, blocks: number, wire: KvFormat) {
    this.#wire = wire
    this.#headDim = shape.headDim
    this.#blockValues = valuesOfBlock(shape)
    this.#wireBytes = kvBlockBytes(shape, wire)
    this.values = new Float32Array(slabMemory(blocks * this.#blockValues * 4))
    this.#bytes = new Uint8Array(this.values.buffer)
  }

  clear(block: number): void {
    this.#block(block).fill(0)
  }

  writeRow(run: number, token: number, source: Float32Array, from: number): void {
    const to = (run * BLOCK_TOKENS + token) * this.#headDim
    for (let d = 0; d < this.#headDim; d++) this.values[to + d] = source[from + d] ?? 0
  }

  readRun(run: number): Float32Array {
    const width = BLOCK_TOKENS * this.#headDim
    return this.values.subarray(run * width, (run + 1) * width)
  }

  readBlocks(blocks: Uint32Array, out: Uint8Array): void {
    if (this.#wire === 'f32') {
      for (const { at, first, count } of blockRuns(blocks))
        out.set(this.#bytesOf(first, count), at * this.#wireBytes)
      return
    }
    for (const [i, id] of blocks.entries()) {
      const block = this.#block(id)
      const start = i * this.#wireBytes
      const integers = new Int8Array(out.buffer, out.byteOffset + start, block.length)
      const scales = new Float32Array(block.length / this.#headDim)
      quantiseRows(block, this.#headDim, integers, scales)
      out.set(bytesOf(scales), start + block.length)
    }
  }

  writeBlocks(blocks: Uint32Array, data: Uint8Array): void {
    const wireBytes = this.#wireBytes
    if (this.#wire === 'f32') {
      for (const { at, first, count } of blockRuns(blocks)) {
        this.#bytesOf(first, count).set(data.subarray(at * wireBytes, (at + count) * wireBytes))
      }
      return
    }
    for (const [i, id] of blocks.entries()) {
      const block = this.#block(id)
      const own = data.subarray(i * wireBytes, (i + 1) * wireBytes)
      const integers = new Int8Array(own.buffer, own.byteOffset, block.length)
      const scales = new Float32Array(block.length / this.#headDim)
      bytesOf(scales).set(own.subarray(block.length))
      dequantiseRows(integers, scales, this.#headDim, block)
    }
  }

  copyBlock(from: number, to: number): void {
    const width = this.#blockValues
    this.values.copyWithin(to * width, from * width, (from + 1) * width)
  }

  moveBlocks(from: Uint32Array, to: Uint32Array): void {
    const blocks = Array.from(from, (block) => this.#block(block).slice())
    for (const [i, block] of blocks.entries()) this.#block(to[i] ?? 0).set(block)
  }

  /** Where the pool's format is the wire's. */
  #bytesOf(first: number, count: number): Uint8Array {
    return this.#bytes.subarray(first * this.#wireBytes, (first + count) * this.#wireBytes)
  }

  #block(block: number): Float32Array<ArrayBuffer> {
    return this.values.subarray(block * this.#blockValues, (block + 1) * this.#blockValues)
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer>): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
