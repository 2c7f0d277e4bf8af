/**
 * Models that need no files: the layout of a Llama, weights from a seed.
 *
 * Y1 Every weight depends on (model, tensor, row, column) only: the same on every machine, and any
 *    row can be made alone.
 * Y2 A weight matrix costs about as much to make as to copy: its rows are windows into one table of
 *    random numbers, no two of a tensor at the same place.
 * Embeddings are not tied to the head: with random weights a tied head would repeat one token.
 */
import { NotFoundError } from '@kvasir/runtime/errors'
import type { ModelConfig } from './model-config.js'
import type { WeightSource } from './weight-source.js'

export const DUMMY_PREFIX = 'dummy:'

interface DummyShape {
  readonly hiddenSize: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly intermediateSize: number
  readonly vocabularySize: number
  readonly contextTokensMax: number
}

const SHAPES: Readonly<Record<string, DummyShape>> = {
  /** 487 million parameters. */
  'llama-0.5b': {
    hiddenSize: 1024,
    layers: 24,
    heads: 16,
    kvHeads: 4,
    headDim: 64,
    intermediateSize: 4864,
    vocabularySize: 32_000,
    contextTokensMax: 4096,
  },
  /** One layer of it with a long context, to measure attention alone. */
  'llama-0.5b-layer': {
    hiddenSize: 1024,
    layers: 1,
    heads: 16,
    kvHeads: 4,
    headDim: 64,
    intermediateSize: 256,
    vocabularySize: 515,
    contextTokensMax: 65_536,
  },
  /** For tests: sizes that are no multiples of a vector register where the layout allows it. */
  'llama-tiny': {
    hiddenSize: 72,
    layers: 3,
    heads: 6,
    kvHeads: 2,
    headDim: 32,
    intermediateSize: 180,
    vocabularySize: 515,
    contextTokensMax: 2048,
  },
}

/** `name` is without the prefix, such as `llama-0.5b`. */
export function dummyConfig(name: string): ModelConfig {
  const shape = SHAPES[name]
  if (shape === undefined) {
    const known = Object.keys(SHAPES).map((key) => DUMMY_PREFIX + key)
    throw new NotFoundError(`There is no model ${DUMMY_PREFIX}${name}; use one of ${known.join(', ')}.`)
  }
  return {
    ...shape,
    normEpsilon: 1e-5,
    ropeTheta: 10_000,
    ropeScaling: undefined,
    tiedEmbeddings: false,
    qkvBias: false,
    qkNorm: false,
    slidingWindow: undefined,
    stopTokens: [],
  }
}

/** Random numbers in the table: more than any tensor has rows. */
const TABLE_LENGTH = 1 << 20
/** Spread of the head's outputs: wide enough that the best two logits are seldom near a tie. */
const HEAD_GAIN = 3
/** Spread of queries and keys: attention picks out single tokens, so that greedy text does not run in a circle. */
const QUERY_KEY_GAIN = 2
/** Spread of values: what attention picks counts beside the token itself. */
const VALUE_GAIN = 2

export function dummyWeights(name: string): WeightSource {
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
    const table = tableFor(gainOf(tensor) / spreadDivisor(tensor, columns))
    const starts = TABLE_LENGTH - columns
    const first = hashText(tensor) % starts
    const step = coprimeStep(starts)
    return (row: number, target: Float32Array) => {
      const start = (first + row * step) % starts
      target.set(table.subarray(start, start + columns))
    }
  }
  return {
    read(tensor, shape, target) {
      const [rows, columns] = shape
      // Norm weights are one, as in a model before training.
      if (rows === undefined || columns === undefined) return void target.fill(1)
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
    close() {},
  }
}

/** Products keep the spread of what goes in; embeddings have one of 1 to begin with. */
function spreadDivisor(tensor: string, columns: number): number {
  return tensor.startsWith('model.embed_tokens') ? 1 : Math.sqrt(columns)
}

/** A step through `count` places that meets them all before it comes back to one, and spreads them. */
function coprimeStep(count: number): number {
  const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b))
  let step = Math.floor(count * 0.618)
  while (divisor(step, count) !== 1) step++
  return step
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
