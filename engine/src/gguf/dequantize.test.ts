import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { f16ToF32, f16Values, f32ToF16 } from '../half-floats.js'
import type { PackedMatrix } from '../packed-matrix.js'
import { rowReader } from './dequantize.js'
import { rowPacker } from './pack-rows.js'
import { type WritableType, writeRow } from './quantize.js'
import { blockLayout, type GgufTensorType } from './tensor-types.js'

/** Element `i` of the block at `at`, read from the layout of ggml's block_* structures with nothing shared. */
type Reference = (bytes: DataView, at: number, i: number) => number

const half = (bytes: DataView, at: number) => {
  const bits = bytes.getUint16(at, true)
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023]
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15))
}
/** Sixteen bytes whose low halves come before their high halves. */
const nibble = (bytes: DataView, at: number, i: number) =>
  i < 16 ? bytes.getUint8(at + i) & 15 : bytes.getUint8(at + i - 16) >> 4
const bit = (bytes: DataView, at: number, i: number) => (bytes.getUint32(at, true) >>> i) & 1
/** Scale and minimum `j` of the 12 bytes of Q4_K and Q5_K: get_scale_min_k4. */
const scaleAndMinimum = (bytes: DataView, at: number, j: number) => {
  const q = (k: number) => bytes.getUint8(at + k)
  if (j < 4) return [q(j) & 63, q(j + 4) & 63] as const
  return [(q(j + 4) & 15) | ((q(j - 4) >> 6) << 4), (q(j + 4) >> 4) | ((q(j) >> 6) << 4)] as const
}
/** Element i of 256 in 128 bytes: 64 elements to every 32 bytes, the first 32 of them in the low halves. */
const kNibble = (bytes: DataView, at: number, i: number) => {
  const byte = bytes.getUint8(at + 32 * Math.floor(i / 64) + (i % 32))
  return i % 64 < 32 ? byte & 15 : byte >> 4
}

const REFERENCES: Partial<Record<GgufTensorType, Reference>> = {
  Q4_0: (b, at, i) => half(b, at) * (nibble(b, at + 2, i) - 8),
  Q4_1: (b, at, i) => half(b, at) * nibble(b, at + 4, i) + half(b, at + 2),
  Q5_0: (b, at, i) => half(b, at) * (nibble(b, at + 6, i) + 16 * bit(b, at + 2, i) - 16),
  Q5_1: (b, at, i) => half(b, at) * (nibble(b, at + 8, i) + 16 * bit(b, at + 4, i)) + half(b, at + 2),
  Q8_0: (b, at, i) => half(b, at) * b.getInt8(at + 2 + i),
  Q4_K: (b, at, i) => {
    const [scale, minimum] = scaleAndMinimum(b, at + 4, Math.floor(i / 32))
    return half(b, at) * scale * kNibble(b, at + 16, i) - half(b, at + 2) * minimum
  },
  Q5_K: (b, at, i) => {
    const [scale, minimum] = scaleAndMinimum(b, at + 4, Math.floor(i / 32))
    const high = (b.getUint8(at + 16 + (i % 32)) >> Math.floor(i / 32)) & 1
    return half(b, at) * scale * (kNibble(b, at + 48, i) + 16 * high) - half(b, at + 2) * minimum
  },
  Q6_K: (b, at, i) => {
    const [part, l, quarter] = [Math.floor(i / 128), i % 32, Math.floor((i % 128) / 32)]
    const low = b.getUint8(at + part * 64 + (quarter % 2) * 32 + l)
    const high = (b.getUint8(at + 128 + part * 32 + l) >> (2 * quarter)) & 3
    const quant = (quarter < 2 ? low & 15 : low >> 4) + 16 * high - 32
    return half(b, at + 208) * b.getInt8(at + 192 + Math.floor(i / 16)) * quant
  },
}
/** Where a block has halves. */
const HALVES: Partial<Record<GgufTensorType, readonly number[]>> = {
  Q4_1: [0, 2],
  Q5_1: [0, 2],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
}

const BLOCKS = 3
/** Blocks with any bytes, but no infinite scale. */
function anyBlocks(type: GgufTensorType) {
  const { bytes } = blockLayout(type)
  const size = bytes * BLOCKS
  return fc.uint8Array({ minLength: size, maxLength: size }).map((blocks) => {
    for (let at = 0; at < size; at += bytes) {
      for (const offset of HALVES[type] ?? [0])
        blocks[at + offset + 1] = (blocks[at + offset + 1] ?? 0) & 0xbf
    }
    return blocks
  })
}

function packedElement({ bits, blockSize, columns, quants, scales, offsets }: PackedMatrix, i: number) {
  const quant = bits === 8 ? (quants[i] ?? 0) : ((quants[i >> 1] ?? 0) >> (4 * (i % 2))) & 15
  const block = Math.floor(i / columns) * (columns / blockSize) + Math.floor((i % columns) / blockSize)
  return { quant: quant - 2 ** (bits - 1), scale: scales[block] ?? 0, offset: offsets?.[block] ?? 0 }
}

describe.each(Object.entries(REFERENCES))('%s', (name, reference) => {
  const type = name as GgufTensorType
  const { elements, bytes } = blockLayout(type)
  const columns = elements * BLOCKS

  it('is read as the layout of its blocks says, rounded once', () => {
    fc.assert(
      fc.property(anyBlocks(type), (blocks) => {
        const row = new Float32Array(columns)
        rowReader(type)(blocks, 0, row)
        const view = new DataView(blocks.buffer, blocks.byteOffset, blocks.byteLength)
        const expected = Float32Array.from(row, (_, i) =>
          reference(view, Math.floor(i / elements) * bytes, i % elements),
        )
        // Zeros of either sign are the same number.
        expect(row.map((value) => value + 0)).toEqual(expected.map((value) => value + 0))
      }),
      { numRuns: 50 },
    )
  })

  it('packs to the same elements', () => {
    fc.assert(
      fc.property(anyBlocks(type), (blocks) => {
        const row = new Float32Array(columns)
        rowReader(type)(blocks, 0, row)
        const packer = rowPacker(type, 2, columns)
        if (packer === undefined) throw new Error('not packed')
        packer.pack(blocks, 0, 1)
        expect(packer.matrix).toMatchObject({ rows: 2, columns })
        for (let i = 0; i < columns; i++) {
          const { quant, scale, offset } = packedElement(packer.matrix, columns + i)
          const value = quant * scale + offset
          // Exact but for minima, which are rounded once as offsets.
          const bound = offset === 0 ? 0 : 2 ** -22 * (Math.abs(offset) + Math.abs(quant * scale))
          expect(Math.abs(value - (row[i] ?? 0))).toBeLessThanOrEqual(bound)
        }
        expect(packer.matrix.scales.subarray(0, packer.matrix.scales.length / 2).every((s) => s === 0)).toBe(
          true,
        )
      }),
      { numRuns: 20 },
    )
  })
})

describe('writing', () => {
  /** Largest error in units of the largest magnitude of the block. */
  const BOUNDS: Readonly<Record<WritableType, number>> = {
    F32: 0,
    F16: 2 ** -11,
    // Half a step of 127, and the whole value by what its scale loses as a half.
    Q8_0: 1 / 254 + 2 ** -11,
    // From −8 to 7 steps: the far end of one side is a whole step away.
    Q4_0: 1 / 7.9,
    // Half a step of 15 over the whole range, and scales of 6 bits.
    Q4_K: 0.13,
  }

  it.each(Object.entries(BOUNDS))('%s loses little', (name, bound) => {
    const type = name as WritableType
    const { elements, bytes } = blockLayout(type)
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 256, maxLength: 256 }),
        fc.constantFrom(1, 0.02, 37),
        (values, spread) => {
          const row = Float32Array.from(values, (value) => value * spread)
          const stored = new DataView(new ArrayBuffer((256 / elements) * bytes))
          writeRow(type, row, stored, 0)
          const read = new Float32Array(256)
          rowReader(type)(new Uint8Array(stored.buffer), 0, read)
          const largest = Math.max(...row.map(Math.abs))
          // A scale near nothing is a half that is off by up to 2 ** -25, and a value is up to 127 of them.
          const smallest = 127 * 2 ** -25 + 2 ** -24
          for (const [i, value] of row.entries()) {
            expect(Math.abs((read[i] ?? 0) - value)).toBeLessThanOrEqual(bound * largest + smallest)
          }
        },
      ),
      { numRuns: 50 },
    )
  })

  it('gives every half back and rounds what lies between to the nearest, to even when both are near', () => {
    const finite = Array.from({ length: 1 << 16 }, (_, i) => i).filter((i) => (i & 0x7c00) !== 0x7c00)
    for (const i of finite) expect(f32ToF16(f16Values()[i] ?? 0)).toBe(i)
    const value = (i: number) => f16Values()[i] ?? 0
    for (let i = 0; i < 0x7bff; i += 13) {
      const middle = (value(i) + value(i + 1)) / 2
      expect(f32ToF16(middle)).toBe(i % 2 === 0 ? i : i + 1)
      expect(f32ToF16(-middle)).toBe((i % 2 === 0 ? i : i + 1) | 0x8000)
    }
    expect(f32ToF16(1e9)).toBe(0x7c00)
    expect(f32ToF16(Number.NaN)).toBe(0x7e00)
    const read = new Float32Array(1)
    f16ToF32(Uint16Array.of(0x7c00), read)
    expect(read[0]).toBe(Number.POSITIVE_INFINITY)
  })
})
