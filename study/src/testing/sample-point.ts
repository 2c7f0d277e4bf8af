/** A point for the tests of the pool: it does what its input says. */
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { Point } from '../study.js'

export type SampleInput =
  | { readonly kind: 'double'; readonly value: number }
  | { readonly kind: 'refuse' }
  | { readonly kind: 'overflow' }
  | { readonly kind: 'forever' }
  | { readonly kind: 'exit' }
  | { readonly kind: 'tell' }
  /** Waits until `others` points are here as well; counters: here now, here at most. */
  | { readonly kind: 'meet'; readonly counters: SharedArrayBuffer; readonly others: number }
  | { readonly kind: 'unclonable' }

/** No test takes longer, even where it fails. */
const meetMs = 10_000

export const point: Point<SampleInput, unknown> = (input, tell) => {
  switch (input.kind) {
    case 'double':
      return input.value * 2
    case 'refuse':
      throw new InvalidInputError('The bandwidth is negative: write one above 0.', { param: 'bandwidth' })
    case 'overflow':
      throw new RangeError('too deep')
    case 'forever':
      for (;;) Math.sqrt(2)
    case 'exit':
      return process.exit(3)
    case 'tell':
      tell(0.5)
      return 'told'
    case 'meet':
      return meet(new Int32Array(input.counters), input.others)
    case 'unclonable':
      return () => 0
  }
}

function meet(counters: Int32Array, others: number): boolean {
  const here = Atomics.add(counters, 0, 1) + 1
  if (here > Atomics.load(counters, 1)) Atomics.store(counters, 1, here)
  Atomics.notify(counters, 0)
  const deadlineMs = performance.now() + meetMs
  for (let now = here; now <= others; now = Atomics.load(counters, 0)) {
    if (Atomics.wait(counters, 0, now, deadlineMs - performance.now()) === 'timed-out') return false
  }
  return true
}
