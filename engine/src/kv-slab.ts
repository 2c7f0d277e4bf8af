/**
 * The KV pool: one slab a layer, `[blocks, K|V, kv heads, 16 tokens, head dim]`, f32.
 *
 * K1 A block in the slab is the block on the wire: reading and writing blocks are copies.
 * K2 One more block than the pool has stays zero for ever: what short sequences are padded with.
 * K3 The tokens of a block behind the last one written are finite numbers: a block is zeroed when
 *    its first token is written. Attention weighs them with zero, and zero times NaN is not zero.
 * K4 Whatever writes a block drops its bounds.
 * Blocks are named by the caller, who also says what may be overwritten.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { BLOCK_TOKENS } from './device-driver.js'
import { PageBounds } from './page-bounds.js'
import { slabMemory } from './slab-memory.js'

export interface KvShape {
  readonly layers: number
  readonly kvHeads: number
  readonly headDim: number
}

export class KvSlabs {
  readonly blocksMax: number
  readonly bounds: PageBounds
  /** Floats of one block of one layer. */
  readonly #blockFloats: number
  readonly #kvHeads: number
  readonly #headDim: number
  readonly #slabs: readonly Float32Array[]

  constructor({ layers, kvHeads, headDim }: KvShape, blocksMax: number) {
    this.blocksMax = blocksMax
    this.#kvHeads = kvHeads
    this.#headDim = headDim
    this.#blockFloats = 2 * kvHeads * BLOCK_TOKENS * headDim
    this.bounds = new PageBounds({ layers, kvHeads, headDim }, blocksMax)
    this.#slabs = Array.from({ length: layers }, () => slabMemory((blocksMax + 1) * this.#blockFloats))
  }

  /** The block that is always zero. */
  get zeroBlock(): number {
    return this.blocksMax
  }

  get blockBytes(): number {
    return this.#blockFloats * 4
  }

  /** Throws InvalidInputError for a layer or a block that is not there. */
  check(layer: number, blocks: Uint32Array): void {
    if (this.#slabs[layer] === undefined) {
      throw new InvalidInputError(`There is no layer ${layer}; the model has ${this.#slabs.length}.`)
    }
    this.checkBlocks(blocks)
  }

  checkBlocks(blocks: Uint32Array): void {
    for (const block of blocks) {
      if (block >= this.blocksMax) {
        throw new InvalidInputError(`Block ${block} is outside the pool of ${this.blocksMax} blocks.`)
      }
    }
  }

  slab(layer: number): Float32Array {
    const slab = this.#slabs[layer]
    if (slab === undefined) throw new RangeError(`no layer ${layer}`)
    return slab
  }

  /** Runs of 16 tokens of one head: the unit that attention gathers. */
  get runs(): number {
    return (this.blocksMax + 1) * 2 * this.#kvHeads
  }

  keyRun(block: number, head: number): number {
    return block * 2 * this.#kvHeads + head
  }

  valueRun(block: number, head: number): number {
    return (block * 2 + 1) * this.#kvHeads + head
  }

  /**
   * Writes tokens at `start`, `start + 1`, … of a sequence. `k`, `v`: `[rows, kv heads · head dim]`,
   * of which `count` rows from `firstRow` are taken.
   */
  writeTokens(
    layer: number,
    blocks: Uint32Array,
    start: number,
    k: Float32Array,
    v: Float32Array,
    firstRow: number,
    count: number,
  ): void {
    const slab = this.slab(layer)
    const dim = this.#headDim
    const width = this.#kvHeads * dim
    const headFloats = BLOCK_TOKENS * dim
    const valueOffset = this.#kvHeads * headFloats
    for (let i = 0; i < count; i++) {
      const position = start + i
      const inBlock = position % BLOCK_TOKENS
      const id = blocks[(position - inBlock) / BLOCK_TOKENS] ?? 0
      const block = id * this.#blockFloats
      this.bounds.drop(layer, id)
      if (inBlock === 0) slab.fill(0, block, block + this.#blockFloats)
      for (let head = 0; head < this.#kvHeads; head++) {
        const from = (firstRow + i) * width + head * dim
        const to = block + head * headFloats + inBlock * dim
        for (let d = 0; d < dim; d++) {
          slab[to + d] = k[from + d] ?? 0
          slab[to + valueOffset + d] = v[from + d] ?? 0
        }
      }
    }
  }

  /** Copies whole blocks out, in the order of `blocks`. */
  readBlocks(layer: number, blocks: Uint32Array): Uint8Array {
    const slab = this.slab(layer)
    const out = new Float32Array(blocks.length * this.#blockFloats)
    for (const [i, block] of blocks.entries()) {
      const from = block * this.#blockFloats
      out.set(slab.subarray(from, from + this.#blockFloats), i * this.#blockFloats)
    }
    return new Uint8Array(out.buffer)
  }

  writeBlocks(layer: number, blocks: Uint32Array, data: Uint8Array): void {
    this.#put(layer, blocks, data)
    for (const block of blocks) this.bounds.drop(layer, block)
  }

  /** Copies whole blocks of all layers with their bounds, as if all were read before the first is written. */
  copyBlocks(from: Uint32Array, to: Uint32Array): void {
    const sources = new Set(from)
    const overlapping = to.some((block) => sources.has(block))
    for (const [layer, slab] of this.#slabs.entries()) {
      this.bounds.copy(layer, from, to)
      if (overlapping) {
        const data = this.readBlocks(layer, from)
        this.#put(layer, to, data)
        continue
      }
      for (const [i, block] of from.entries()) {
        const start = block * this.#blockFloats
        slab.copyWithin((to[i] ?? 0) * this.#blockFloats, start, start + this.#blockFloats)
      }
    }
  }

  /** Bounds of whole blocks, `[blocks][kv head][min|max][head dim]`, prepared where they are missing. */
  readBounds(layer: number, blocks: Uint32Array): Float32Array<ArrayBuffer> {
    this.prepareBounds(layer, blocks)
    return this.bounds.read(layer, blocks)
  }

  /** Returns how many were missing. */
  prepareBounds(layer: number, blocks: Uint32Array): number {
    return this.bounds.prepare(layer, this.slab(layer), blocks)
  }

  #put(layer: number, blocks: Uint32Array, data: Uint8Array): void {
    const bytes = new Uint8Array(this.slab(layer).buffer)
    for (const [i, block] of blocks.entries()) {
      bytes.set(data.subarray(i * this.blockBytes, (i + 1) * this.blockBytes), block * this.blockBytes)
    }
  }
}
