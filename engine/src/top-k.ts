/**
 * Retrieval: which columns of a row of scores are its `k` largest.
 *
 * T1 Of two equal values the smaller column wins; the columns come out ascending; all where there are fewer.
 * T2 Not a number counts as the smallest value.
 */

export function largestColumns(row: Float32Array, k: number): Uint32Array<ArrayBuffer> {
  const count = Math.min(k, row.length)
  if (count === row.length) return Uint32Array.from({ length: count }, (_, column) => column)
  const chosen = new Uint32Array(count)
  if (count === 0) return chosen
  // Plain loops: this runs once a KV head and layer of each decode step.
  const values = row.slice()
  for (let i = 0; i < values.length; i++) if (Number.isNaN(values[i])) values[i] = Number.NEGATIVE_INFINITY
  const least = kthLargest(values.slice(), count)
  let equal = count
  for (let i = 0; i < values.length; i++) if ((values[i] ?? 0) > least) equal--
  for (let column = 0, taken = 0; taken < count; column++) {
    const value = values[column] ?? 0
    if (value > least || (value === least && equal-- > 0)) chosen[taken++] = column
  }
  return chosen
}

/** `[rows, min(k, columns)]`, see T1. `rows` must divide the number of values. */
export function topK(values: Float32Array, rows: number, k: number): Uint32Array<ArrayBuffer> {
  const columns = values.length / rows
  const width = Math.min(k, columns)
  const chosen = new Uint32Array(rows * width)
  for (let row = 0; row < rows; row++) {
    chosen.set(largestColumns(values.subarray(row * columns, (row + 1) * columns), k), row * width)
  }
  return chosen
}

/** Quickselect; reorders `values`, which holds no NaN. 1 ≤ k ≤ length. */
function kthLargest(values: Float32Array, k: number): number {
  let low = 0
  let high = values.length - 1
  while (low < high) {
    const pivot = values[(low + high) >>> 1] ?? 0
    let left = low
    let right = high
    while (left <= right) {
      while ((values[left] ?? 0) > pivot) left++
      while ((values[right] ?? 0) < pivot) right--
      if (left > right) break
      const swapped = values[left] ?? 0
      values[left++] = values[right] ?? 0
      values[right--] = swapped
    }
    if (k - 1 <= right) high = right
    else if (k - 1 >= left) low = left
    else break
  }
  return values[k - 1] ?? 0
}
