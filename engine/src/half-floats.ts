/** 16-bit floats to f32, exactly, since both formats are subsets of f32; and f32 to the nearest half. */

let f16Table: Float32Array | undefined

/** The values of all 65,536 half-precision numbers, by their bits. */
export function f16Values(): Float32Array {
  f16Table ??= makeF16Table()
  return f16Table
}

/** IEEE half precision. A table of all values makes it one load an element. */
export function f16ToF32(source: Uint16Array, target: Float32Array): void {
  const table = f16Values()
  for (let i = 0; i < source.length; i++) target[i] = table[source[i] ?? 0] ?? 0
}

/** bfloat16: the upper half of an f32. */
export function bf16ToF32(source: Uint16Array, target: Float32Array): void {
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length)
  for (let i = 0; i < source.length; i++) bits[i] = (source[i] ?? 0) << 16
}

const scratch = new Float32Array(1)
const scratchBits = new Uint32Array(scratch.buffer)

/** Bits of the nearest half-precision number, of two equally near ones the even one. */
export function f32ToF16(value: number): number {
  scratch[0] = value
  const bits = scratchBits[0] ?? 0
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  // Halves below the smallest normal one are multiples of 2^-24.
  if (magnitude < 0x38800000) {
    const steps = Math.abs(value) * 2 ** 24
    const floor = Math.floor(steps)
    const rest = steps - floor
    return sign | (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor)
  }
  const rounded = magnitude + 0xfff + ((magnitude >> 13) & 1)
  return sign | Math.min((rounded - 0x38000000) >>> 13, 0x7c00)
}

function makeF16Table(): Float32Array {
  const table = new Float32Array(1 << 16)
  for (let bits = 0; bits < table.length; bits++) {
    const sign = bits & 0x8000 ? -1 : 1
    const exponent = (bits >> 10) & 0x1f
    const fraction = bits & 0x3ff
    if (exponent === 0) table[bits] = sign * fraction * 2 ** -24
    else if (exponent === 0x1f) table[bits] = fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
    else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
  }
  return table
}
