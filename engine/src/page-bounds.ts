/**
 * Bounds of pages (Quest, LServe): of each block and KV head the channel-wise minimum and maximum of its
 * keys after rotary embedding. One slab a layer, `[blocks][kv head][min|max][head dim]`, f32.
 *
 * B1 They are prepared when first asked for, and stand until the block is written to.
 * B2 Bounds written by another device stand as if they had been prepared here; the block's own keys
 *    need not be here at all.
 */
import { BLOCK_TOKENS } from './device-driver.js'
import { slabMemory } from './slab-memory.js'

export class PageBounds {
  /** Floats of one block of one layer. */
  readonly #blockFloats: number
  readonly #kvHeads: number
  readonly #headDim: number
  readonly #slabs: readonly Float32Array[]
  /** By layer and block: 1 where the bounds stand. */
  readonly #standing: readonly Uint8Array[]

  constructor(
    {
      layers,
      kvHeads,
      headDim,
    }: { readonly layers: number; readonly kvHeads: number; readonly headDim: number },
    blocksMax: number,
  ) {
    this.#kvHeads = kvHeads
    this.#headDim = headDim
    this.#blockFloats = kvHeads * 2 * headDim
    this.#slabs = Array.from(
      { length: layers },
      () => new Float32Array(slabMemory(blocksMax * this.#blockFloats * 4)),
    )
    this.#standing = this.#slabs.map(() => new Uint8Array(blocksMax))
  }

  get blockBytes(): number {
    return this.#blockFloats * Float32Array.BYTES_PER_ELEMENT
  }

  slab(layer: number): Float32Array {
    return at(this.#slabs, layer)
  }

  /** The block was written to. */
  drop(layer: number, block: number): void {
    at(this.#standing, layer)[block] = 0
  }

  /**
   * Works out what is missing from the layer's keys; returns how many blocks were. `keysOf`: a block's keys of
   * one head as the pool holds them, `[16, head dim]`.
   */
  prepare(layer: number, blocks: Uint32Array, keysOf: (block: number, head: number) => Float32Array): number {
    const standing = at(this.#standing, layer)
    let missing = 0
    for (const block of blocks) {
      if (standing[block] === 1) continue
      this.#compute(this.slab(layer), block, keysOf)
      standing[block] = 1
      missing++
    }
    return missing
  }

  /** Copies bounds that stand, in the order of `blocks`. */
  read(layer: number, blocks: Uint32Array): Float32Array<ArrayBuffer> {
    const slab = this.slab(layer)
    const out = new Float32Array(blocks.length * this.#blockFloats)
    for (const [i, block] of blocks.entries()) {
      const from = block * this.#blockFloats
      out.set(slab.subarray(from, from + this.#blockFloats), i * this.#blockFloats)
    }
    return out
  }

  write(layer: number, blocks: Uint32Array, data: Uint8Array): void {
    const bytes = new Uint8Array(this.slab(layer).buffer)
    const standing = at(this.#standing, layer)
    for (const [i, block] of blocks.entries()) {
      bytes.set(data.subarray(i * this.blockBytes, (i + 1) * this.blockBytes), block * this.blockBytes)
      standing[block] = 1
    }
  }

  /** Copies the bounds that stand, as if all were read before the first is written. */
  copy(layer: number, from: Uint32Array, to: Uint32Array): void {
    const standing = at(this.#standing, layer)
    const stood = from.map((block) => standing[block] ?? 0)
    this.write(layer, to, new Uint8Array(this.read(layer, from).buffer))
    for (const [i, block] of to.entries()) standing[block] = stood[i] ?? 0
  }

  #compute(slab: Float32Array, block: number, keysOf: (block: number, head: number) => Float32Array): void {
    const dim = this.#headDim
    for (let head = 0; head < this.#kvHeads; head++) {
      const keys = keysOf(block, head)
      const low = (block * this.#kvHeads + head) * 2 * dim
      const high = low + dim
      for (let d = 0; d < dim; d++) {
        let minimum = keys[d] ?? 0
        let maximum = minimum
        for (let at = dim + d; at < BLOCK_TOKENS * dim; at += dim) {
          const key = keys[at] ?? 0
          if (key < minimum) minimum = key
          else if (key > maximum) maximum = key
        }
        slab[low + d] = minimum
        slab[high + d] = maximum
      }
    }
  }
}

function at<T>(layers: readonly T[], layer: number): T {
  const found = layers[layer]
  if (found === undefined) throw new RangeError(`no layer ${layer}`)
  return found
}
