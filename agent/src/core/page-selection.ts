/**
 * The first few of many in some order, found in one pass: tier policies look at all pages between steps and
 * move few of them.
 */

/** At most `count` of them, the first by `compare` first; equal ones in the order in which they came. */
export function firstFew<T>(items: Iterable<T>, count: number, compare: (a: T, b: T) => number): T[] {
  const few: T[] = []
  for (const item of items) {
    const last = few[count - 1]
    if (count < 1 || (last !== undefined && compare(item, last) >= 0)) continue
    let low = 0
    for (let high = few.length; low < high; ) {
      const middle = (low + high) >> 1
      if (compare(few[middle] as T, item) <= 0) low = middle + 1
      else high = middle
    }
    few.splice(low, 0, item)
    if (few.length > count) few.pop()
  }
  return few
}
