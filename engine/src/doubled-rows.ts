/** Query rows given two times: a lone row takes another matrix kernel and would be rounded differently. */

export function doubleRows(values: Float32Array, width: number): Float32Array {
  const doubled = new Float32Array(values.length * 2)
  for (let row = 0; row * width < values.length; row++) {
    const own = values.subarray(row * width, (row + 1) * width)
    doubled.set(own, 2 * row * width)
    doubled.set(own, (2 * row + 1) * width)
  }
  return doubled
}

export function everySecondRow(values: Float32Array, width: number): Float32Array<ArrayBuffer> {
  const single = new Float32Array(values.length / 2)
  for (let row = 0; row * width < single.length; row++) {
    single.set(values.subarray(2 * row * width, (2 * row + 1) * width), row * width)
  }
  return single
}
