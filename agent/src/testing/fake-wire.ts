/**
 * The fake device's blocks as they are on the wire, in f32 or in 8 bits. Of each two numbers of a token one is 0 and
 * the other a whole number, so the way through 8 bits and back changes none.
 */
import { BLOCK_TOKENS } from '@kvasir/engine/device-driver'
import { dequantiseRows, kvBlockBytes, quantiseRows } from '@kvasir/engine/kv-format'
import type { KvFormat } from '@kvasir/engine/numerics'
import { FAKE_HEADS, FLOATS_PER_BLOCK } from './fake-pages.js'

const { headDim } = FAKE_HEADS
const ROWS = 2 * BLOCK_TOKENS

/** `floats`: whole blocks. */
export function toWire(floats: Uint8Array, format: KvFormat): Uint8Array {
  if (format === 'f32') return floats
  const values = new Float32Array(floats.slice().buffer)
  const blocks = values.length / FLOATS_PER_BLOCK
  const bytes = kvBlockBytes(FAKE_HEADS, format)
  const wire = new Uint8Array(blocks * bytes)
  for (let block = 0; block < blocks; block += 1) {
    const own = values.subarray(block * FLOATS_PER_BLOCK, (block + 1) * FLOATS_PER_BLOCK)
    quantiseRows(own, headDim, ...partsOf(wire, block * bytes))
  }
  return wire
}

/** The reverse of `toWire`. */
export function fromWire(wire: Uint8Array, format: KvFormat): Uint8Array {
  if (format === 'f32') return wire
  const bytes = kvBlockBytes(FAKE_HEADS, format)
  const own = wire.slice()
  const values = new Float32Array((own.length / bytes) * FLOATS_PER_BLOCK)
  for (let block = 0; block < own.length / bytes; block += 1) {
    const target = values.subarray(block * FLOATS_PER_BLOCK, (block + 1) * FLOATS_PER_BLOCK)
    dequantiseRows(...partsOf(own, block * bytes), headDim, target)
  }
  return new Uint8Array(values.map(Math.round).buffer)
}

function partsOf(wire: Uint8Array<ArrayBuffer>, from: number): [integers: Int8Array, scales: Float32Array] {
  return [
    new Int8Array(wire.buffer, from, ROWS * headDim),
    new Float32Array(wire.buffer, from + ROWS * headDim, ROWS),
  ]
}
