/**
 * The bytes of KV blocks, and how keys and values become 8-bit integers and back.
 *
 * One block of one layer: `[K|V][kv head][token][head dim]`; in int8 the scales follow, f32
 * `[K|V][kv head][token]`: value = integer · scale.
 *
 * V1 A scale is the largest magnitude of its token and head ÷ 127, rounded up to 16 significant bits, and
 *    integers are rounded to nearest. Then integer · scale is exact in f32, so that what is dequantised
 *    and quantised again gives the same bytes. A scale below the smallest normal f32 has no 16 bits: the
 *    row becomes zeros.
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
    scales[row] = quantiseRow(values, row * width, width, integers, row * width)
  }
}

/** One row of `width` from `values[from]` on to `integers[to]` on; returns its scale. */
export function quantiseRow(
  values: Float32Array,
  from: number,
  width: number,
  integers: Int8Array,
  to: number,
): number {
  let largest = 0
  for (let i = from; i < from + width; i++) {
    const magnitude = Math.abs(values[i] ?? 0)
    if (magnitude > largest) largest = magnitude
  }
  const scale = shortScale(largest / 127)
  const inverse = scale === 0 ? 0 : 1 / scale
  for (let i = 0; i < width; i++) integers[to + i] = Math.round((values[from + i] ?? 0) * inverse)
  return scale
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

const scaleFloat = new Float32Array(1)
const scaleBits = new Uint32Array(scaleFloat.buffer)

const smallestNormal = 2 ** -126

/** Rounded up to 16 significant bits. */
function shortScale(value: number): number {
  if (value < smallestNormal) return 0
  scaleFloat[0] = value
  scaleBits[0] = ((scaleBits[0] ?? 0) + 0xff) & ~0xff
  return scaleFloat[0] ?? 0
}
