/**
 * The bytes of KV blocks, and how keys and values become 8-bit integers and back.
 *
 * One block of one layer: `[K|V][kv head][token][head dim]`; in int8 the scales follow, f32
 * `[K|V][kv head][token]`: value = integer · scale.
 *
 * V1 A scale is the largest magnitude of its token and head ÷ 127, integers are rounded to nearest; so
 *    what is dequantised and quantised again gives the same bytes.
 */
import { BLOCK_TOKENS } from './device-driver.js'
import type { KvFormat } from './numerics.js'

export interface KvBlockShape {
  readonly kvHeads: number
  readonly headDim: number
}

/** Rows of one block of one layer: one for each of K and V, KV head and token. */
function rowsOf({ kvHeads }: KvBlockShape): number {
  return 2 * kvHeads * BLOCK_TOKENS
}

/** Bytes of one block of one layer. */
export function kvBlockBytes(shape: KvBlockShape, format: KvFormat): number {
  const rows = rowsOf(shape)
  return format === 'f32' ? rows * shape.headDim * 4 : rows * (shape.headDim + 4)
}

/** Bytes of one page's bounds of one layer, `[kv head][min|max][head dim]` f32 whatever the format of the KV. */
export function pageBoundsBytes({ kvHeads, headDim }: KvBlockShape): number {
  return kvHeads * 2 * headDim * 4
}

/** Clears the tokens from `used` on in one block of one layer. */
export function clearTail(
  block: Uint8Array,
  { kvHeads, headDim }: KvBlockShape,
  format: KvFormat,
  used: number,
): void {
  const tokenBytes = format === 'f32' ? headDim * 4 : headDim
  const scales = 2 * kvHeads * BLOCK_TOKENS * headDim
  for (let head = 0; head < 2 * kvHeads; head += 1) {
    const start = head * BLOCK_TOKENS
    block.fill(0, (start + used) * tokenBytes, (start + BLOCK_TOKENS) * tokenBytes)
    if (format === 'int8') block.fill(0, scales + (start + used) * 4, scales + (start + BLOCK_TOKENS) * 4)
  }
}

/** `values`: rows of `width`. Writes the integers and one scale a row. */
export function quantiseRows(
  values: Float32Array,
  width: number,
  integers: Int8Array,
  scales: Float32Array,
): void {
  const rows = values.length / width
  for (let row = 0; row < rows; row++) {
    const start = row * width
    let largest = 0
    for (let i = start; i < start + width; i++) {
      const magnitude = Math.abs(values[i] ?? 0)
      if (magnitude > largest) largest = magnitude
    }
    const scale = Math.fround(largest / 127)
    scales[row] = scale
    const inverse = scale === 0 ? 0 : 1 / scale
    for (let i = start; i < start + width; i++) integers[i] = Math.round((values[i] ?? 0) * inverse)
  }
}

/** The reverse of `quantiseRows`. */
export function dequantiseRows(
  integers: Int8Array,
  scales: Float32Array,
  width: number,
  values: Float32Array,
): void {
  const rows = values.length / width
  for (let row = 0; row < rows; row++) {
    const scale = scales[row] ?? 0
    for (let i = row * width; i < (row + 1) * width; i++) values[i] = (integers[i] ?? 0) * scale
  }
}
