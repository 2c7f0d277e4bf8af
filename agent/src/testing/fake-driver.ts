/**
 * A device for tests: no model, no thread, the same tokens for the same prompt.
 *
 * What a sequence's next token is depends on every token's entry in every layer of its
 * KV blocks, so a block that was lost, mixed up or overwritten changes the text.
 * `expectedTokens` computes the same text without any of it.
 */
import {
  BLOCK_TOKENS,
  type DeviceDriver,
  type DriverDescription,
  type DriverStats,
  type LoadedModelFacts,
  type LoadModelOptions,
  type StepResult,
  type StepSequence,
} from '@kvasir/engine/device-driver'
import { InternalError, InvalidInputError, type KvasirError, UnsupportedError } from '@kvasir/runtime/errors'
import type { DriverFactory } from '../definition.js'

export interface FakeDriverOptions {
  readonly layers?: number
  readonly contextTokensMax?: number
  /** The device is gone once it resolves. */
  readonly lost?: Promise<KvasirError>
  /** Awaited before each layer of a step; a test holds a step with it. */
  readonly beforeLayer?: (layer: number, rows: number) => Promise<void>
}

export const FAKE_VOCABULARY = 97
/** Ends a text, but the fake model never chooses it: tests name their own stop tokens. */
export const FAKE_STOP_TOKEN = 0
const HEAD_DIM = 2
const FLOATS_PER_BLOCK = 2 * BLOCK_TOKENS * HEAD_DIM

/** The model's only name. */
export const FAKE_MODEL = 'fake-model'
const FAKE_DIGEST = 'fa'.repeat(32)

export class FakeDriver implements DeviceDriver {
  /** By layer: [block][K|V][token][head dim]. */
  private slabs: Float32Array[] = []
  private stepping = false
  private cancelled = false
  private closed = false
  private counters = { steps: 0, matrixCalls: 0, attentionCalls: 0, rows: 0 }

  constructor(private readonly options: FakeDriverOptions = {}) {}

  get lost(): Promise<KvasirError> {
    return this.options.lost ?? new Promise(() => {})
  }

  describe(): DriverDescription {
    return { name: 'fake', kernels: [{ name: 'fake.step', version: 1, limits: {} }], rowsMax: 512 }
  }

  async loadModel({ model, kvBlocksMax }: LoadModelOptions): Promise<LoadedModelFacts> {
    if (model !== FAKE_MODEL) throw new InvalidInputError(`The fake device has no model ${model}.`)
    const { layers = 3, contextTokensMax = 2_048 } = this.options
    this.slabs = Array.from({ length: layers }, () => new Float32Array(kvBlocksMax * FLOATS_PER_BLOCK))
    return {
      name: FAKE_MODEL,
      digest: FAKE_DIGEST,
      contextTokensMax,
      vocabularySize: FAKE_VOCABULARY,
      layers,
      kvHeads: 1,
      headDim: HEAD_DIM,
      blockLayerBytes: FLOATS_PER_BLOCK * Float32Array.BYTES_PER_ELEMENT,
      parameters: 1_000,
      weightBytes: 4_000,
      stopTokens: [FAKE_STOP_TOKEN],
    }
  }

  async step(sequences: readonly StepSequence[], onLayer?: (layer: number) => void): Promise<StepResult> {
    if (this.stepping) throw new InternalError('The fake device was given two steps at once.')
    this.stepping = true
    this.cancelled = false
    const startMs = performance.now()
    const rows = sequences.reduce((sum, { tokens }) => sum + tokens.length, 0)
    try {
      for (let layer = 0; layer < this.slabs.length; layer += 1) {
        await (this.options.beforeLayer?.(layer, rows) ?? nextTurn())
        if (this.closed) throw new InternalError('The fake device was closed.')
        if (this.cancelled)
          return {
            logits: new Float32Array(0),
            elapsedUs: elapsedUs(startMs),
            cancelled: true,
            failed: [],
            attention: [],
          }
        for (const sequence of sequences) this.store(layer, sequence)
        this.counters.matrixCalls += 1
        this.counters.attentionCalls += sequences.length
        onLayer?.(layer)
      }
      this.counters.steps += 1
      this.counters.matrixCalls += 1
      this.counters.rows += rows
      const wanted = sequences.filter(({ wantLogits }) => wantLogits)
      const logits = new Float32Array(wanted.length * FAKE_VOCABULARY)
      wanted.forEach((sequence, row) => {
        const state = this.stateOf(sequence)
        for (let id = 0; id < FAKE_VOCABULARY; id += 1) {
          logits[row * FAKE_VOCABULARY + id] = id === nextToken(state) ? 9 : (state % (id + 2)) / 100
        }
      })
      return { logits, elapsedUs: elapsedUs(startMs), cancelled: false, failed: [], attention: [] }
    } finally {
      this.stepping = false
    }
  }

  cancelStep(): void {
    this.cancelled = true
  }

  async readBlocks(layer: number, blocks: Uint32Array): Promise<Uint8Array> {
    const slab = this.slab(layer)
    const data = new Float32Array(blocks.length * FLOATS_PER_BLOCK)
    blocks.forEach((block, index) => {
      data.set(
        slab.subarray(block * FLOATS_PER_BLOCK, (block + 1) * FLOATS_PER_BLOCK),
        index * FLOATS_PER_BLOCK,
      )
    })
    return new Uint8Array(data.buffer)
  }

  async writeBlocks(layer: number, blocks: Uint32Array, data: Uint8Array): Promise<void> {
    const slab = this.slab(layer)
    const floats = new Float32Array(data.slice().buffer)
    blocks.forEach((block, index) => {
      const from = index * FLOATS_PER_BLOCK
      slab.set(floats.subarray(from, from + FLOATS_PER_BLOCK), block * FLOATS_PER_BLOCK)
    })
  }

  copyBlocks(): Promise<never> {
    return Promise.reject(new UnsupportedError('not yet'))
  }

  readBounds(): Promise<never> {
    return Promise.reject(new UnsupportedError('not yet'))
  }

  writeBounds(): Promise<never> {
    return Promise.reject(new UnsupportedError('not yet'))
  }

  runKernel(): Promise<never> {
    return Promise.reject(new UnsupportedError('not yet'))
  }

  async stats(): Promise<DriverStats> {
    return { ...this.counters }
  }

  async close(): Promise<void> {
    this.closed = true
  }

  private slab(layer: number): Float32Array {
    const slab = this.slabs[layer]
    if (slab === undefined) throw new InternalError(`The fake device has no layer ${layer}.`)
    return slab
  }

  /** The entry of a token: K holds the token, V what the layer makes of token and position. */
  private store(layer: number, { blocks, start, tokens }: StepSequence): void {
    const slab = this.slab(layer)
    tokens.forEach((token, row) => {
      const key = offsetOf(blocks, start + row)
      slab[key] = token
      slab[key + BLOCK_TOKENS * HEAD_DIM] = (token * 7 + (start + row) * 3 + layer) % 1_000
    })
  }

  private stateOf({ blocks, start, tokens }: StepSequence): number {
    let state = 17
    for (let position = 0; position < start + tokens.length; position += 1) {
      const key = offsetOf(blocks, position)
      for (let layer = 0; layer < this.slabs.length; layer += 1) {
        const slab = this.slab(layer)
        const token = slab[key] ?? -1
        state = mix(state, token, (slab[key + BLOCK_TOKENS * HEAD_DIM] ?? -1) - layer)
      }
    }
    return state
  }
}

/** The `count` tokens that the fake model generates after `prompt`. */
export function expectedTokens(prompt: readonly number[], count: number, layers = 3): number[] {
  const tokens = [...prompt]
  while (tokens.length < prompt.length + count) {
    let state = 17
    tokens.forEach((token, position) => {
      for (let layer = 0; layer < layers; layer += 1) {
        state = mix(state, token, ((token * 7 + position * 3 + layer) % 1_000) - layer)
      }
    })
    const next = nextToken(state)
    tokens.push(next)
  }
  return tokens.slice(prompt.length)
}

/** Devices with the fake model. */
export function fakeFactory(options: FakeDriverOptions = {}): DriverFactory {
  return {
    create: () => new FakeDriver(options),
    blockBytes: async () => (options.layers ?? 3) * FLOATS_PER_BLOCK * Float32Array.BYTES_PER_ELEMENT,
  }
}

function offsetOf(blocks: Uint32Array, position: number): number {
  const block = blocks[Math.floor(position / BLOCK_TOKENS)]
  if (block === undefined) throw new InternalError(`A step has no block for position ${position}.`)
  return block * FLOATS_PER_BLOCK + (position % BLOCK_TOKENS) * HEAD_DIM
}

function mix(state: number, token: number, value: number): number {
  return (Math.imul(state ^ (token + 1), 16_777_619) + value * 31) >>> 0
}

function nextToken(state: number): number {
  return 1 + (state % (FAKE_VOCABULARY - 1))
}

function elapsedUs(startMs: number): number {
  return Math.round((performance.now() - startMs) * 1_000)
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
