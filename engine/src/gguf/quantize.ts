/**
 * Rows of f32 in the types of GGUF. F32, F16, Q8_0 and Q4_0 are rounded as ggml's reference does; Q4_K takes each
 * sub-block's smallest and largest element, without ggml's search for something better.
 */
import { f16Values, f32ToF16 } from '../half-floats.js'
import { blockLayout } from './tensor-types.js'

export type WritableType = 'F32' | 'F16' | 'Q8_0' | 'Q4_0' | 'Q4_K'

/** Puts `row` at byte `at` of `target`. */
export function writeRow(type: WritableType, row: Float32Array, target: DataView, at: number): void {
  const { elements, bytes } = blockLayout(type)
  const write = WRITERS[type]
  for (let from = 0; from < row.length; from += elements, at += bytes) write(row, from, target, at)
}

type BlockWriter = (row: Float32Array, from: number, target: DataView, at: number) => void

const WRITERS: Readonly<Record<WritableType, BlockWriter>> = {
  F32: (row, from, target, at) => target.setFloat32(at, row[from] ?? 0, true),
  F16: (row, from, target, at) => target.setUint16(at, f32ToF16(row[from] ?? 0), true),
  Q8_0: writeQ8_0,
  Q4_0: writeQ4_0,
  Q4_K: writeQ4_K,
}

function writeQ8_0(row: Float32Array, from: number, target: DataView, at: number): void {
  let largest = 0
  for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(row[from + i] ?? 0))
  const scale = Math.fround(largest / 127)
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
  target.setUint16(at, f32ToF16(scale), true)
  for (let i = 0; i < 32; i++) {
    const value = Math.fround((row[from + i] ?? 0) * inverse)
    // Halves are rounded away from zero.
    target.setInt8(at + 2 + i, Math.sign(value) * Math.floor(Math.abs(value) + 0.5))
  }
}

function writeQ4_0(row: Float32Array, from: number, target: DataView, at: number): void {
  let largest = 0
  for (let i = 0; i < 32; i++) {
    const value = row[from + i] ?? 0
    if (Math.abs(value) > Math.abs(largest)) largest = value
  }
  const scale = Math.fround(largest / -8)
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
  target.setUint16(at, f32ToF16(scale), true)
  const quant = (i: number) => Math.min(15, Math.floor(Math.fround((row[from + i] ?? 0) * inverse) + 8.5))
  for (let i = 0; i < 16; i++) target.setUint8(at + 2 + i, quant(i) | (quant(i + 16) << 4))
}

function writeQ4_K(row: Float32Array, from: number, target: DataView, at: number): void {
  const scales = new Float64Array(8)
  const minima = new Float64Array(8)
  for (let sub = 0; sub < 8; sub++) {
    let [low, high] = [0, 0]
    for (let i = 0; i < 32; i++) {
      const value = row[from + sub * 32 + i] ?? 0
      low = Math.min(low, value)
      high = Math.max(high, value)
    }
    scales[sub] = (high - low) / 15
    minima[sub] = -low
  }
  const step = putStep(target, at, Math.max(...scales) / 63)
  const minimumStep = putStep(target, at + 2, Math.max(...minima) / 63)
  const scaleCodes = Array.from(scales, (scale) => codeOf(scale, step, 63))
  const minimumCodes = Array.from(minima, (minimum) => codeOf(minimum, minimumStep, 63))
  for (let i = 0; i < 4; i++) {
    const [scale, scaleHigh] = [scaleCodes[i] ?? 0, scaleCodes[i + 4] ?? 0]
    const [minimum, minimumHigh] = [minimumCodes[i] ?? 0, minimumCodes[i + 4] ?? 0]
    target.setUint8(at + 4 + i, scale | ((scaleHigh >> 4) << 6))
    target.setUint8(at + 8 + i, minimum | ((minimumHigh >> 4) << 6))
    target.setUint8(at + 12 + i, (scaleHigh & 15) | ((minimumHigh & 15) << 4))
  }
  const quant = (sub: number, i: number) => {
    const value = (row[from + sub * 32 + i] ?? 0) + minimumStep * (minimumCodes[sub] ?? 0)
    return codeOf(value, step * (scaleCodes[sub] ?? 0), 15)
  }
  for (let part = 0; part < 4; part++) {
    for (let i = 0; i < 32; i++) {
      target.setUint8(at + 16 + part * 32 + i, quant(part * 2, i) | (quant(part * 2 + 1, i) << 4))
    }
  }
}

/** Stores a half and gives the value that will be read. */
function putStep(target: DataView, at: number, value: number): number {
  const bits = f32ToF16(value)
  target.setUint16(at, bits, true)
  return f16Values()[bits] ?? 0
}

function codeOf(value: number, step: number, largest: number): number {
  return step === 0 ? 0 : Math.max(0, Math.min(largest, Math.round(value / step)))
}
