/**
 * Which attention calls a step needs, worked out once for all its layers.
 *
 * L1 Every call takes consecutive rows: first those of the sequences with one new token, by length, then
 *    those of the others (step-layout.ts).
 * L2 Sequences with one new token share calls. A call pads its block tables to its longest sequence,
 *    so lengths that differ by more than twice go to different calls. Nor do more share one than what
 *    is gathered for stays in the processor's cache until it is multiplied.
 * L3 A sequence with several new tokens has calls of its own, cut where the scores would grow too large.
 * L4 Every call has at least two query rows for each KV head (attention-graph.ts says why).
 * L5 Where a sliding window limits what is seen, pages wholly behind it are left out from the beginning of the
 *    sequence, in multiples of what the product with V adds in one go: so a row's sum is divided in the same
 *    places whichever call it is in.
 */
import { BLOCK_TOKENS } from './device-driver.js'
import type { KvSlabs } from './kv-slab.js'

export interface AttentionCall {
  /** First row of the step, and how many. */
  readonly rowStart: number
  readonly rows: number
  readonly batch: number
  readonly queries: readonly Query[]
  /** Query rows of one sequence as the graph sees them. */
  readonly queryRows: number
  /** Each row is given twice, since a lone one would not be computed alike. */
  readonly doubled: boolean
  readonly keys: number
  /** Of each query the place among its blocks that its keys begin with: 0 where no window ends before. */
  readonly firstPages: readonly number[]
  /** `[batch, kv heads, keys / 16]`. */
  readonly keyRuns: Int32Array
  readonly valueRuns: Int32Array
  /** `[batch, 1, 1, queryRows, keys]`. */
  readonly mask: Float32Array
}

/** One query: consecutive new tokens of one sequence, the first at `position`. */
export interface Query {
  /**
   * In the order of the sequence; one list a KV head where they differ, as sparse attention's do. Such
   * lists, all of one length, may change from layer to layer: `fillRuns` takes them anew.
   */
  readonly blocks: Uint32Array | readonly Uint32Array[]
  /** Among the tokens of these blocks. */
  readonly position: number
  readonly rows: number
}

export interface HeadShape {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

export interface PlanOptions {
  /** Row of the step that the first query begins with; 0 by default. */
  readonly firstRow?: number
  /** Tokens that a query sees, its own included; all by default. */
  readonly window?: number | undefined
}

/** Scores of one call, floats: 16 MB, of which three copies live at a time. */
const SCORES_MAX = 4 << 20
const TILE_ROWS_MIN = 16
/** Keys and values of one call that several sequences share, floats: 8 MB. */
const GATHERED_MAX = 2 << 20
/** Up to this many keys padding costs less than another call. */
const SHORT_KEYS = 256

/** `queries` cover the rows from `firstRow` on, in order; those with one row come first, by length. */
export function planAttention(
  queries: readonly Query[],
  shape: HeadShape,
  slabs: KvSlabs,
  { firstRow = 0, window }: PlanOptions = {},
): AttentionCall[] {
  const calls: AttentionCall[] = []
  let row = firstRow
  let at = 0
  while (queries[at]?.rows === 1) {
    const sameClass = lengthClass(queries[at], window)
    const sharersMax = Math.max(
      1,
      Math.floor(GATHERED_MAX / (2 * shape.kvHeads * shape.headDim * 2 ** sameClass)),
    )
    let end = at + 1
    while (
      queries[end]?.rows === 1 &&
      lengthClass(queries[end], window) === sameClass &&
      end - at < sharersMax
    ) {
      end++
    }
    const shared = queries.slice(at, end)
    calls.push(makeCall(shared, row, shape, slabs, window))
    row += shared.length
    at = end
  }
  for (const query of queries.slice(at)) {
    const end = query.position + query.rows
    const keys = paddedKeys(end) - firstPageOf(query, shape, window) * BLOCK_TOKENS
    const tile = Math.max(TILE_ROWS_MIN, Math.floor(SCORES_MAX / (shape.heads * keys)))
    for (let done = 0; done < query.rows; done += tile) {
      const rows = Math.min(tile, query.rows - done)
      calls.push(makeCall([{ ...query, position: query.position + done, rows }], row, shape, slabs, window))
      row += rows
    }
  }
  return calls
}

function paddedKeys(tokens: number): number {
  return Math.ceil(tokens / BLOCK_TOKENS) * BLOCK_TOKENS
}

function lengthClass(query: Query | undefined, window: number | undefined): number {
  const tokens = Math.min((query?.position ?? 0) + 1, window ?? Number.POSITIVE_INFINITY)
  return Math.ceil(Math.log2(Math.max(SHORT_KEYS, paddedKeys(tokens))))
}

/** The first page that is gathered: of those that a row of the query sees, or a few before (L5). */
function firstPageOf({ position }: Query, { headDim }: HeadShape, window: number | undefined): number {
  if (window === undefined) return 0
  const firstSeen = Math.max(0, position - window + 1)
  const step = keysAddedAtOnce(headDim)
  return (Math.floor(firstSeen / step) * step) / BLOCK_TOKENS
}

/**
 * Keys that ONNX Runtime's f32 matrix kernel (MLAS) adds before it goes over to its next sum, in a product with
 * `headDim` columns: it cuts the longer side in pieces of 128, twice as many as often as half of the other's
 * suffices.
 */
function keysAddedAtOnce(headDim: number): number {
  let [columns, keys] = [128, 128]
  while (columns > 1 && columns / 2 >= headDim) {
    columns /= 2
    keys *= 2
  }
  return keys
}

function makeCall(
  queries: readonly Query[],
  rowStart: number,
  shape: HeadShape,
  slabs: KvSlabs,
  window: number | undefined,
): AttentionCall {
  const { heads, kvHeads } = shape
  const rows = queries[0]?.rows ?? 0
  const doubled = rows * (heads / kvHeads) < 2
  const queryRows = doubled ? 2 * rows : rows
  const firstPages = queries.map((query) => firstPageOf(query, shape, window))
  const starts = firstPages.map((page) => page * BLOCK_TOKENS)
  const keys = Math.max(
    ...queries.map((query, b) => paddedKeys(query.position + query.rows) - (starts[b] ?? 0)),
  )
  const mask = new Float32Array(queries.length * queryRows * keys)
  for (const [b, query] of queries.entries()) {
    for (let r = 0; r < queryRows; r++) {
      const seen = query.position + (doubled ? 0 : r) + 1 - (starts[b] ?? 0)
      const base = (b * queryRows + r) * keys
      mask.fill(Number.NEGATIVE_INFINITY, base + seen, base + keys)
      if (window !== undefined && seen > window) {
        mask.fill(Number.NEGATIVE_INFINITY, base, base + seen - window)
      }
    }
  }
  const call = {
    rowStart,
    rows: rows * queries.length,
    batch: queries.length,
    queries,
    queryRows,
    doubled,
    keys,
    firstPages,
    keyRuns: new Int32Array((queries.length * kvHeads * keys) / BLOCK_TOKENS),
    valueRuns: new Int32Array((queries.length * kvHeads * keys) / BLOCK_TOKENS),
    mask,
  }
  for (const [b, query] of queries.entries()) fillQueryRuns(call, b, query, kvHeads, slabs)
  return call
}

/** Takes the blocks of queries that have their own for each KV head as they are now. */
export function fillRuns(call: AttentionCall, { kvHeads }: Pick<HeadShape, 'kvHeads'>, slabs: KvSlabs): void {
  for (const [b, query] of call.queries.entries()) {
    if (!(query.blocks instanceof Uint32Array)) fillQueryRuns(call, b, query, kvHeads, slabs)
  }
}

function fillQueryRuns(
  { keys, firstPages, keyRuns, valueRuns }: AttentionCall,
  b: number,
  { blocks, position, rows }: Query,
  kvHeads: number,
  slabs: KvSlabs,
): void {
  const blockCount = keys / BLOCK_TOKENS
  const firstPage = firstPages[b] ?? 0
  const used = paddedKeys(position + rows) / BLOCK_TOKENS - firstPage
  for (let head = 0; head < kvHeads; head++) {
    const own = blocks instanceof Uint32Array ? blocks : blocks[head]
    const base = (b * kvHeads + head) * blockCount
    for (let i = 0; i < blockCount; i++) {
      const block = i < used ? (own?.[firstPage + i] ?? 0) : slabs.zeroBlock
      keyRuns[base + i] = slabs.keyRun(block, head)
      valueRuns[base + i] = slabs.valueRun(block, head)
    }
  }
}
