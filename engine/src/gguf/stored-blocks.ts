/**
 * The quantised types of ggml: how a stored block becomes small integers, scales and minima.
 *
 * D1 An element is `scale · (quant − centre)`, or in types with a minimum `scale · quant + minimum`. Products
 *    and sums are exact in a double, so one rounding to f32 gives what ggml's own f32 arithmetic gives.
 * Layouts: `block_*` and `dequantize_row_*` in ggml's ggml-common.h and ggml-quants.c.
 */
import { f16Values } from '../half-floats.js'
import type { GgufTensorType } from './tensor-types.js'

/** What one block was unpacked to; overwritten by the next. */
export class UnpackedBlock {
  /** In the order of the row's elements, each from 0. */
  readonly quants = new Uint8Array(256)
  /** Of each sub-block. */
  readonly scales = new Float64Array(16)
  /** Of each sub-block, in types that have minima. */
  readonly minima = new Float64Array(16)
}

export interface StoredBlocks {
  /** Elements that share a scale. */
  readonly subBlock: 16 | 32
  /** Middle of the quants' range. */
  readonly centre: number
  readonly hasMinima: boolean
  /** Bits in which MatMulNBits can hold a quant. */
  readonly packedBits: 4 | 8
  /** Unpacks the block at `at`. */
  readonly unpack: (bytes: Uint8Array, at: number, block: UnpackedBlock) => void
}

type QuantisedType = Exclude<GgufTensorType, 'F32' | 'F16' | 'BF16'>

const STORED: Readonly<Record<QuantisedType, StoredBlocks>> = {
  Q4_0: { subBlock: 32, centre: 8, hasMinima: false, packedBits: 4, unpack: unpackQ4_0 },
  Q4_1: { subBlock: 32, centre: 8, hasMinima: true, packedBits: 4, unpack: unpackQ4_1 },
  Q5_0: { subBlock: 32, centre: 16, hasMinima: false, packedBits: 8, unpack: unpackQ5_0 },
  Q5_1: { subBlock: 32, centre: 16, hasMinima: true, packedBits: 8, unpack: unpackQ5_1 },
  Q8_0: { subBlock: 32, centre: 128, hasMinima: false, packedBits: 8, unpack: unpackQ8_0 },
  Q4_K: { subBlock: 32, centre: 8, hasMinima: true, packedBits: 4, unpack: unpackQ4_K },
  Q5_K: { subBlock: 32, centre: 16, hasMinima: true, packedBits: 8, unpack: unpackQ5_K },
  Q6_K: { subBlock: 16, centre: 32, hasMinima: false, packedBits: 8, unpack: unpackQ6_K },
}

/** Undefined for types that are not quantised. */
export function storedBlocks(type: GgufTensorType): StoredBlocks | undefined {
  return type === 'F32' || type === 'F16' || type === 'BF16' ? undefined : STORED[type]
}

function unpackQ4_0(bytes: Uint8Array, at: number, { quants, scales }: UnpackedBlock): void {
  scales[0] = half(bytes, at)
  nibbles(bytes, at + 2, quants, 16, 0)
}

function unpackQ4_1(bytes: Uint8Array, at: number, { quants, scales, minima }: UnpackedBlock): void {
  scales[0] = half(bytes, at)
  minima[0] = half(bytes, at + 2)
  nibbles(bytes, at + 4, quants, 16, 0)
}

function unpackQ5_0(bytes: Uint8Array, at: number, { quants, scales }: UnpackedBlock): void {
  scales[0] = half(bytes, at)
  nibbles(bytes, at + 6, quants, 16, 0)
  fifthBits(bytes, at + 2, quants)
}

function unpackQ5_1(bytes: Uint8Array, at: number, { quants, scales, minima }: UnpackedBlock): void {
  scales[0] = half(bytes, at)
  minima[0] = half(bytes, at + 2)
  nibbles(bytes, at + 8, quants, 16, 0)
  fifthBits(bytes, at + 4, quants)
}

function unpackQ8_0(bytes: Uint8Array, at: number, { quants, scales }: UnpackedBlock): void {
  scales[0] = half(bytes, at)
  // From −128 … 127 to 0 … 255.
  for (let i = 0; i < 32; i++) quants[i] = (bytes[at + 2 + i] ?? 0) ^ 0x80
}

function unpackQ4_K(bytes: Uint8Array, at: number, block: UnpackedBlock): void {
  sixBitScales(bytes, at, block)
  for (let part = 0; part < 4; part++) nibbles(bytes, at + 16 + part * 32, block.quants, 32, part * 64)
}

function unpackQ5_K(bytes: Uint8Array, at: number, block: UnpackedBlock): void {
  const { quants } = block
  sixBitScales(bytes, at, block)
  for (let part = 0; part < 4; part++) nibbles(bytes, at + 48 + part * 32, quants, 32, part * 64)
  // Bit j of byte i is the fifth bit of element i of sub-block j.
  for (let i = 0; i < 256; i++) {
    quants[i] = (quants[i] ?? 0) | ((((bytes[at + 16 + (i & 31)] ?? 0) >> (i >> 5)) & 1) << 4)
  }
}

function unpackQ6_K(bytes: Uint8Array, at: number, { quants, scales }: UnpackedBlock): void {
  const scale = half(bytes, at + 208)
  for (let i = 0; i < 16; i++) scales[i] = scale * (((bytes[at + 192 + i] ?? 0) << 24) >> 24)
  for (let part = 0; part < 2; part++) {
    const first = part * 128
    // 64 bytes hold the low halves of 128 elements, 32 bytes two more bits of each.
    nibbles(bytes, at + part * 64, quants, 64, first)
    for (let i = 0; i < 32; i++) {
      const high = bytes[at + 128 + part * 32 + i] ?? 0
      for (let quarter = 0; quarter < 4; quarter++) {
        const element = first + quarter * 32 + i
        quants[element] = (quants[element] ?? 0) | (((high >> (2 * quarter)) & 3) << 4)
      }
    }
  }
}

/** `count` bytes: low halves are the first `count` elements, high halves the next. */
function nibbles(bytes: Uint8Array, at: number, quants: Uint8Array, count: number, first: number): void {
  for (let i = 0; i < count; i++) {
    const byte = bytes[at + i] ?? 0
    quants[first + i] = byte & 15
    quants[first + count + i] = byte >> 4
  }
}

/** 32 bits, one for each element. */
function fifthBits(bytes: Uint8Array, at: number, quants: Uint8Array): void {
  for (let i = 0; i < 32; i++) {
    quants[i] = (quants[i] ?? 0) | ((((bytes[at + (i >> 3)] ?? 0) >> (i & 7)) & 1) << 4)
  }
}

/** Two halves, then 8 scales and 8 minima of 6 bits in 12 bytes. */
function sixBitScales(bytes: Uint8Array, at: number, { scales, minima }: UnpackedBlock): void {
  const scale = half(bytes, at)
  const minimum = half(bytes, at + 2)
  const byte = (i: number) => bytes[at + 4 + i] ?? 0
  for (let i = 0; i < 4; i++) {
    scales[i] = scale * (byte(i) & 63)
    minima[i] = -minimum * (byte(i + 4) & 63)
    scales[i + 4] = scale * ((byte(i + 8) & 15) | ((byte(i) >> 6) << 4))
    minima[i + 4] = -minimum * ((byte(i + 8) >> 4) | ((byte(i + 4) >> 6) << 4))
  }
}

function half(bytes: Uint8Array, at: number): number {
  return f16Values()[(bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8)] ?? 0
}
