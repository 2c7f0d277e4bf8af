/**
 * Models that need no files: the layout of a Llama, weights from a seed.
 *
 * Y1 Every weight depends on (model, tensor, row, column) only: the same on every machine, and any
 *    row can be made alone.
 * Y2 A weight matrix costs about as much to make as to copy: its rows are windows into one table of
 *    random numbers, no two of a tensor at the same place.
 * Y3 Greedy text does not run in circles. A head that is the table of embeddings would choose the same token
 *    again, since what it is given still holds that token's row: there the last norm turns signs at random, which
 *    makes it another head.
 */
import { dummyConfig } from './dummy-shapes.js'
import type { WeightSource } from './weight-source.js'

/** Random numbers in the table: more than any tensor has rows. */
const TABLE_LENGTH = 1 << 20
/** Spread of the head's outputs: wide enough that the best two logits are seldom near a tie. */
const HEAD_GAIN = 3
/** Spread of queries and keys: attention picks out single tokens, so that greedy text does not run in a circle. */
const QUERY_KEY_GAIN = 2
/** Spread of values: what attention picks counts beside the token itself. */
const VALUE_GAIN = 2
/** Small: what is added alike to all tokens hides what tells them apart. */
const BIAS_SPREAD = 0.05

/** `name`: as for `dummyConfig`. */
export function dummyWeights(name: string): WeightSource {
  const { tiedEmbeddings } = dummyConfig(name)
  const base = randomTable(hashText(name))
  // One scaled copy of the table for each spread; a model has three or four.
  const scaled = new Map<number, Float32Array>()
  const tableFor = (spread: number): Float32Array => {
    let table = scaled.get(spread)
    if (table === undefined) {
      table = base.map((value) => value * spread)
      scaled.set(spread, table)
    }
    return table
  }
  /** Fills rows of one tensor; windows of different rows begin at different places. */
  const rowFiller = (tensor: string, columns: number) => {
    const table = tableFor(spreadOf(tensor, columns))
    const starts = TABLE_LENGTH - columns
    const first = hashText(tensor) % starts
    const step = coprimeStep(starts)
    return (row: number, target: Float32Array) => {
      const start = (first + row * step) % starts
      target.set(table.subarray(start, start + columns))
    }
  }
  const fillVector = (tensor: string, size: number, target: Float32Array): void => {
    if (tensor.endsWith('.bias')) return void rowFiller(tensor, size)(0, target)
    // Norm weights are one, as in a model before training.
    if (tensor !== 'model.norm.weight' || !tiedEmbeddings) return void target.fill(1)
    rowFiller(tensor, size)(0, target)
    const length = HEAD_GAIN / Math.sqrt(size)
    for (const [i, value] of target.entries()) target[i] = value < 0 ? -length : length
  }
  return {
    read(tensor, shape, target) {
      const [rows, columns] = shape
      if (rows === undefined) throw new RangeError(`the tensor ${tensor} has no shape`)
      if (columns === undefined) return fillVector(tensor, rows, target)
      const fill = rowFiller(tensor, columns)
      for (let row = 0; row < rows; row++) fill(row, target.subarray(row * columns, (row + 1) * columns))
    },
    readRows(tensor, [, columns], firstRow, target) {
      const fill = rowFiller(tensor, columns)
      for (let row = 0; row * columns < target.length; row++) {
        fill(firstRow + row, target.subarray(row * columns, (row + 1) * columns))
      }
    },
    rows: (tensor, [, columns]) => rowFiller(tensor, columns),
    storedBytes: () => 0,
    close() {},
  }
}

/** A step through `count` places that meets them all before it comes back to one, and spreads them. */
function coprimeStep(count: number): number {
  const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b))
  let step = Math.floor(count * 0.618)
  while (divisor(step, count) !== 1) step++
  return step
}

/** The standard deviation of a tensor's numbers. Products keep the spread of what goes in, but for a gain. */
function spreadOf(tensor: string, columns: number): number {
  if (tensor.endsWith('.bias')) return BIAS_SPREAD
  if (tensor.startsWith('model.embed_tokens')) return 1
  return gainOf(tensor) / Math.sqrt(columns)
}

function gainOf(tensor: string): number {
  if (tensor.startsWith('lm_head')) return HEAD_GAIN
  if (/[qk]_proj/.test(tensor)) return QUERY_KEY_GAIN
  return tensor.includes('v_proj') ? VALUE_GAIN : 1
}

/** Numbers of mean 0 and variance 1, flat over their range. */
function randomTable(seed: number): Float32Array {
  const table = new Float32Array(TABLE_LENGTH)
  let state = seed | 1
  for (let i = 0; i < TABLE_LENGTH; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    table[i] = ((state >>> 0) / 2 ** 32 - 0.5) * Math.sqrt(12)
  }
  return table
}

/** FNV-1a, 32 bits. */
function hashText(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return mix(hash)
}

function mix(value: number): number {
  let x = value >>> 0
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}
