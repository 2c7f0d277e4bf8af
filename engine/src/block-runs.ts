/** Blocks of a list that follow each other in the pool too, which can be copied in one go. */

/** `count` blocks from block `first` of the pool, which stand at `at` in the list. */
export interface BlockRun {
  readonly at: number
  readonly first: number
  readonly count: number
}

/** All of the list, in its order. A run of `ids` rises by one from block to block. */
export function* blockRuns(ids: Uint32Array): Generator<BlockRun> {
  for (let at = 0; at < ids.length; ) {
    const first = ids[at] ?? 0
    let count = 1
    while (at + count < ids.length && ids[at + count] === first + count) count += 1
    yield { at, first, count }
    at += count
  }
}
