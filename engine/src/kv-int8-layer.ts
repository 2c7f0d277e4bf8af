/**
 * A layer of the KV pool in int8 with a scale a token of a head: about a quarter of the memory of f32. Its
 * blocks are on the wire what they are here, but for where the scales lie.
 */
import { BLOCK_TOKENS } from './device-driver.js'
import { dequantiseRows, type KvBlockShape, kvBlockBytes, quantiseRow } from './kv-format.js'
import { type KvLayer, runsOfBlock, valuesOfBlock } from './kv-layer.js'
import { slabMemory } from './slab-memory.js'

export class KvInt8Layer implements KvLayer {
  readonly values: Int8Array<ArrayBuffer>
  readonly scales: Float32Array<ArrayBuffer>
  readonly #headDim: number
  readonly #blockValues: number
  readonly #blockScales: number
  readonly #wireBytes: number
  readonly #run: Float32Array

  constructor(shape: KvBlockShape, blocks: number) {
    this.#headDim = shape.headDim
    this.#blockValues = valuesOfBlock(shape)
    this.#blockScales = runsOfBlock(shape) * BLOCK_TOKENS
    this.#wireBytes = kvBlockBytes(shape, 'int8')
    this.values = new Int8Array(slabMemory(blocks * this.#blockValues))
    this.scales = new Float32Array(slabMemory(blocks * this.#blockScales * 4))
    this.#run = new Float32Array(BLOCK_TOKENS * shape.headDim)
  }

  clear(block: number): void {
    this.#values(block).fill(0)
    this.#scaleBytes(block).fill(0)
  }

  writeRow(run: number, token: number, source: Float32Array, from: number): void {
    const row = run * BLOCK_TOKENS + token
    this.scales[row] = quantiseRow(source, from, this.#headDim, this.values, row * this.#headDim)
  }

  readRun(run: number): Float32Array {
    const width = BLOCK_TOKENS * this.#headDim
    const scales = this.scales.subarray(run * BLOCK_TOKENS, (run + 1) * BLOCK_TOKENS)
    dequantiseRows(this.values.subarray(run * width, (run + 1) * width), scales, this.#headDim, this.#run)
    return this.#run
  }

  readBlocks(blocks: Uint32Array, out: Uint8Array): void {
    for (const [i, block] of blocks.entries()) {
      out.set(this.#values(block), i * this.#wireBytes)
      out.set(this.#scaleBytes(block), i * this.#wireBytes + this.#blockValues)
    }
  }

  writeBlocks(blocks: Uint32Array, data: Uint8Array): void {
    for (const [i, block] of blocks.entries()) {
      const own = data.subarray(i * this.#wireBytes, (i + 1) * this.#wireBytes)
      this.#values(block).set(own.subarray(0, this.#blockValues))
      this.#scaleBytes(block).set(own.subarray(this.#blockValues))
    }
  }

  copyBlock(from: number, to: number): void {
    this.#values(to).set(this.#values(from))
    this.#scaleBytes(to).set(this.#scaleBytes(from))
  }

  moveBlocks(from: Uint32Array, to: Uint32Array): void {
    const blocks = new Uint8Array(from.length * this.#wireBytes)
    this.readBlocks(from, blocks)
    this.writeBlocks(to, blocks)
  }

  #values(block: number): Uint8Array {
    return new Uint8Array(this.values.buffer, block * this.#blockValues, this.#blockValues)
  }

  #scaleBytes(block: number): Uint8Array {
    return new Uint8Array(this.scales.buffer, block * this.#blockScales * 4, this.#blockScales * 4)
  }
}
