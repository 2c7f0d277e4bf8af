/**
 * The KV pool: one slab a layer, `[blocks, K|V, kv heads, 16 tokens, head dim]`, in f32 or int8.
 *
 * K1 Where the pool has the wire's format, a block in the slab is the block on the wire: reading and writing
 *    blocks are copies. A pool in f32 may speak int8 on the wire: it quantises what is read and dequantises
 *    what is written.
 * K2 One more block than the pool has stays zero for ever: what short sequences are padded with.
 * K3 The tokens of a block behind the last one written are finite numbers: a block is zeroed when
 *    its first token is written. Attention weighs them with zero, and zero times NaN is not zero.
 * K4 Whatever writes a block drops its bounds.
 * K5 In int8 a token's K and V are quantised when they are written, so that it attends to its own as all
 *    later ones do.
 * Blocks are named by the caller, who also says what may be overwritten.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { BLOCK_TOKENS } from './device-driver.js'
import { KvFloatLayer } from './kv-float-layer.js'
import { kvBlockBytes } from './kv-format.js'
import { KvInt8Layer } from './kv-int8-layer.js'
import type { KvLayer } from './kv-layer.js'
import { EXACT, type KvFormat, type Numerics } from './numerics.js'
import { PageBounds } from './page-bounds.js'

export interface KvShape {
  readonly layers: number
  readonly kvHeads: number
  readonly headDim: number
}

export class KvSlabs {
  readonly blocksMax: number
  readonly bounds: PageBounds
  readonly pool: KvFormat
  /** Bytes of one block of one layer on the wire. */
  readonly blockBytes: number
  /** Bytes of one block of one layer in the pool. */
  readonly poolBlockBytes: number
  readonly #kvHeads: number
  readonly #headDim: number
  readonly #layers: readonly KvLayer[]

  constructor(shape: KvShape, blocksMax: number, { pool, wire }: Pick<Numerics, 'pool' | 'wire'> = EXACT) {
    if (pool === 'int8' && wire !== 'int8') throw new RangeError('a pool in int8 speaks int8')
    this.blocksMax = blocksMax
    this.pool = pool
    this.blockBytes = kvBlockBytes(shape, wire)
    this.poolBlockBytes = kvBlockBytes(shape, pool)
    this.#kvHeads = shape.kvHeads
    this.#headDim = shape.headDim
    this.bounds = new PageBounds(shape, blocksMax)
    this.#layers = Array.from({ length: shape.layers }, () =>
      pool === 'f32' ? new KvFloatLayer(shape, blocksMax + 1, wire) : new KvInt8Layer(shape, blocksMax + 1),
    )
  }

  /** The block that is always zero. */
  get zeroBlock(): number {
    return this.blocksMax
  }

  /** Throws InvalidInputError for a layer or a block that is not there. */
  check(layer: number, blocks: Uint32Array): void {
    if (this.#layers[layer] === undefined) {
      throw new InvalidInputError(`There is no layer ${layer}; the model has ${this.#layers.length}.`)
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

  layer(layer: number): KvLayer {
    const found = this.#layers[layer]
    if (found === undefined) throw new RangeError(`no layer ${layer}`)
    return found
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
    const slab = this.layer(layer)
    const dim = this.#headDim
    const width = this.#kvHeads * dim
    for (let i = 0; i < count; i++) {
      const position = start + i
      const inBlock = position % BLOCK_TOKENS
      const block = blocks[(position - inBlock) / BLOCK_TOKENS] ?? 0
      this.bounds.drop(layer, block)
      if (inBlock === 0) slab.clear(block)
      for (let head = 0; head < this.#kvHeads; head++) {
        const from = (firstRow + i) * width + head * dim
        slab.writeRow(this.keyRun(block, head), inBlock, k, from)
        slab.writeRow(this.valueRun(block, head), inBlock, v, from)
      }
    }
  }

  /** Copies whole blocks out, in the order of `blocks`; to `room` where it is given, which must be large enough. */
  readBlocks(layer: number, blocks: Uint32Array, room?: ArrayBuffer): Uint8Array {
    const bytes = blocks.length * this.blockBytes
    const out = new Uint8Array(room ?? new ArrayBuffer(bytes), 0, bytes)
    this.layer(layer).readBlocks(blocks, out)
    return out
  }

  writeBlocks(layer: number, blocks: Uint32Array, data: Uint8Array): void {
    this.layer(layer).writeBlocks(blocks, data)
    for (const block of blocks) this.bounds.drop(layer, block)
  }

  /** Copies whole blocks of all layers with their bounds, as if all were read before the first is written. */
  copyBlocks(from: Uint32Array, to: Uint32Array): void {
    const sources = new Set(from)
    const overlapping = to.some((block) => sources.has(block))
    for (const [layer, slab] of this.#layers.entries()) {
      this.bounds.copy(layer, from, to)
      if (overlapping) slab.moveBlocks(from, to)
      else for (const [i, block] of from.entries()) slab.copyBlock(block, to[i] ?? 0)
    }
  }

  /** Bounds of whole blocks, `[blocks][kv head][min|max][head dim]`, prepared where they are missing. */
  readBounds(layer: number, blocks: Uint32Array): Float32Array<ArrayBuffer> {
    this.prepareBounds(layer, blocks)
    return this.bounds.read(layer, blocks)
  }

  /** Returns how many were missing. */
  prepareBounds(layer: number, blocks: Uint32Array): number {
    const slab = this.layer(layer)
    return this.bounds.prepare(layer, blocks, (block, head) => slab.readRun(this.keyRun(block, head)))
  }
}
