/** 16-bit floats to f32, exactly: both formats are subsets of f32. */

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
