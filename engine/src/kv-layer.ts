/**
 * One layer of the KV pool: a slab of blocks `[blocks, K|V, kv heads, 16 tokens, head dim]`, and how blocks
 * go to the wire and come from it. A run is 16 tokens of one head, K or V: the unit that attention gathers.
 *
 * Blocks and runs are the caller's, who checks them.
 */
import { BLOCK_TOKENS } from './device-driver.js'
import type { KvBlockShape } from './kv-format.js'

export interface KvLayer {
  /** `[runs, 16, head dim]`. */
  readonly values: Float32Array | Int8Array
  /** Of int8 values, `[runs, 16]`. */
  readonly scales: Float32Array | undefined
  /** Makes a block zero. */
  clear(block: number): void
  /** Takes one token's row of one head from `source[from]` on. */
  writeRow(run: number, token: number, source: Float32Array, from: number): void
  /** The rows of a run as f32, for reading until the next call. */
  readRun(run: number): Float32Array
  /** Copies blocks out in the wire's format, in the order of `blocks`, to `out`, which has room for just them. */
  readBlocks(blocks: Uint32Array, out: Uint8Array): void
  /** The reverse; `data` may lie at any address. */
  writeBlocks(blocks: Uint32Array, data: Uint8Array): void
  copyBlock(from: number, to: number): void
  /** Copies blocks as if all were read before the first is written. */
  moveBlocks(from: Uint32Array, to: Uint32Array): void
}

export function runsOfBlock({ kvHeads }: KvBlockShape): number {
  return 2 * kvHeads
}

/** Numbers in one block. */
export function valuesOfBlock(shape: KvBlockShape): number {
  return runsOfBlock(shape) * BLOCK_TOKENS * shape.headDim
}
