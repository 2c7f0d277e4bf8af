/**
 * The rows of a step: which sequence each belongs to, and how attention takes them.
 *
 * S1 Rows are in an order that gives every attention call consecutive ones: sequences with one new token
 *    by length, first those that this device decides alone, then those whose pages another device helps to
 *    choose, then those of which it holds some; then the sequences with several new tokens.
 * S2 The last layer computes only the last row of each sequence whose logits are wanted: a layout of its
 *    own.
 */
import { type AttentionCall, type HeadShape, planAttention, type Query } from './attention-plan.js'
import { BLOCK_TOKENS, type StepSequence } from './device-driver.js'
import type { KvSlabs } from './kv-slab.js'
import type { ModelConfig } from './model-config.js'
import { PageMeter } from './page-meter.js'
import { type PagePlan, pagePlanOf } from './page-plan.js'

/** One sequence during one step. */
export interface Lane {
  /** Its place in the batch. */
  readonly index: number
  readonly sequence: StepSequence
  readonly plan: PagePlan
  /** Of each KV head the chosen pages, as places in the sequence's blocks; undefined where all are taken. */
  pages: readonly Uint32Array[] | undefined
  /** Of each KV head their blocks; attention calls look at this list. */
  readonly chosenBlocks: Uint32Array[]
  readonly meter: PageMeter | undefined
  /** Why its remote attention failed. */
  error: unknown
}

export interface LayoutEntry {
  readonly lane: Lane
  readonly query: Query
  /** First row of this layout. */
  readonly row: number
  /** Row of the layout of all rows that its last row was. */
  readonly source: number
}

export interface StepLayout {
  readonly entries: readonly LayoutEntry[]
  readonly rows: number
  /** A layer's calls that need no answer of another device. */
  readonly early: (layer: number) => readonly AttentionCall[]
  /** Those that do; a model with a sliding window has none. */
  readonly late: readonly AttentionCall[]
}

export type LayoutShape = HeadShape & Pick<ModelConfig, 'slidingWindow'>

export function laneOf(sequence: StepSequence, index: number, kvHeads: number): Lane {
  const plan = pagePlanOf(sequence)
  const { blocks, tokens, trackPages } = sequence
  const isMeasured = trackPages === true && tokens.length === 1
  const here = plan.pages - plan.firstPage
  // Until pages are chosen, and for good where that fails: the last ones, so that a call has blocks to read.
  const last = blocks.slice(Math.max(0, here - plan.budget), here)
  return {
    index,
    sequence,
    plan,
    pages: undefined,
    chosenBlocks: Array.from({ length: kvHeads }, () => last),
    meter: isMeasured ? new PageMeter(plan, blocks.length) : undefined,
    error: undefined,
  }
}

/** The layout of all rows. */
export function layoutOf(lanes: readonly Lane[], shape: LayoutShape, slabs: KvSlabs): StepLayout {
  return arrange(
    lanes.map((lane) => ({ lane, query: queryOf(lane), source: 0 })),
    shape,
    slabs,
  )
}

/** The layout of the rows whose logits are wanted; `all` itself where these are all. */
export function wantedLayout(all: StepLayout, shape: LayoutShape, slabs: KvSlabs): StepLayout {
  const wanted = all.entries.filter(({ lane }) => lane.sequence.wantLogits)
  if (wanted.length === all.rows) return all
  const items = wanted.map(({ lane, query, row }) => ({
    lane,
    query: { ...query, position: query.position + query.rows - 1, rows: 1 },
    source: row + query.rows - 1,
  }))
  return arrange(items, shape, slabs)
}

/** The rows of `all` that a layout is made of, of `[rows, width]`. */
export function pickRows(values: Float32Array, { entries, rows }: StepLayout, width: number): Float32Array {
  if (rows * width === values.length) return values
  const picked = new Float32Array(rows * width)
  for (const { row, source } of entries) {
    picked.set(values.subarray(source * width, (source + 1) * width), row * width)
  }
  return picked
}

/** Rows of a wanted layout to rows in the order in which the caller gave the sequences. */
export function inCallersOrder(logits: Float32Array, { entries }: StepLayout, width: number): Float32Array {
  const sorted = [...entries].sort((a, b) => a.lane.index - b.lane.index)
  if (sorted.every(({ row }, to) => row === to)) return logits
  const out = new Float32Array(logits.length)
  for (const [to, { row }] of sorted.entries()) {
    out.set(logits.subarray(row * width, (row + 1) * width), to * width)
  }
  return out
}

type Item = Pick<LayoutEntry, 'lane' | 'query' | 'source'>

function queryOf({ sequence: { blocks, start, tokens }, plan, chosenBlocks }: Lane): Query {
  if (plan.source === 'all') return { blocks, position: start, rows: tokens.length }
  const position = (plan.budget - 1) * BLOCK_TOKENS + (start % BLOCK_TOKENS)
  return { blocks: chosenBlocks, position, rows: 1 }
}

const RANKS = { all: 0, choose: 0, indices: 1, partial: 2 } as const
const SEVERAL_ROWS = 3

function rankOf({ lane, query }: Item): number {
  return query.rows === 1 ? RANKS[lane.plan.source] : SEVERAL_ROWS
}

function arrange(items: readonly Item[], shape: LayoutShape, slabs: KvSlabs): StepLayout {
  const sorted = [...items].sort(
    (a, b) => rankOf(a) - rankOf(b) || (a.query.rows === 1 ? a.query.position - b.query.position : 0),
  )
  let rows = 0
  const entries = sorted.map((item) => {
    const entry = { ...item, row: rows }
    rows += item.query.rows
    return entry
  })
  const callsOf = (rank: number, window?: number) => {
    const own = entries.filter((entry) => rankOf(entry) === rank)
    return planAttention(
      own.map(({ query }) => query),
      shape,
      slabs,
      { firstRow: own[0]?.row ?? 0, window },
    )
  }
  const { slidingWindow } = shape
  const planned = new Map<boolean, readonly AttentionCall[]>()
  const early = (layer: number) => {
    const isWindowed = slidingWindow?.layers[layer] === true
    const window = isWindowed ? slidingWindow?.tokens : undefined
    const calls = planned.get(isWindowed) ?? [...callsOf(0, window), ...callsOf(SEVERAL_ROWS, window)]
    planned.set(isWindowed, calls)
    return calls
  }
  return { entries, rows, early, late: callsOf(1) }
}
