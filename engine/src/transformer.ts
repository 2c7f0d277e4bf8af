/**
 * A loaded model and its KV pool: runs one step of a batch, layer by layer, on ONNX Runtime.
 *
 * E1 One dense call a layer and step, whatever the number of sequences, and one for the head.
 * E2 The K/V of new tokens are in the slab before the layer's attention, and are reported then.
 * E3 Of the last layer only the rows whose logits are wanted are computed beyond their K/V.
 * E4 Rows are bit-equal whatever the batch, chunking, padding and block ids; attention-graph.ts and
 *    dense-graphs.ts say by which rules.
 * `session.run` blocks this thread. Not the job of this file: threads and messages (ort-worker.ts).
 */
import { availableParallelism } from 'node:os'
import { CancelledError, InvalidInputError } from '@kvasir/runtime/errors'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { type AttentionCall, planAttention, type Query, rowOrder } from './attention-plan.js'
import { AttentionSessions } from './attention-sessions.js'
import { buildDenseGraphs } from './dense-graphs.js'
import {
  BLOCK_TOKENS,
  type DriverStats,
  type LoadedModelFacts,
  type LoadModelOptions,
  type StepResult,
  type StepSequence,
} from './device-driver.js'
import { KvSlabs } from './kv-slab.js'
import { STEP_ROWS_MAX } from './limits.js'
import { MemoryKernels } from './memory-kernels.js'
import type { ModelConfig } from './model-config.js'
import { type ResolvedModel, resolveModel } from './model-files.js'
import { WEIGHTS_PATH } from './onnx-graph.js'
import { floats, sessionOptions } from './ort-session.js'
import { type RotaryTables, rotaryTables } from './rotary.js'
import { inCallersOrder, pickRows, wantedRows } from './wanted-rows.js'

export interface StepHooks {
  /** The layer's K/V of all new tokens are in the blocks. */
  onLayer(layer: number): void
  /** Called between calls into ONNX Runtime, the time to serve others; true ends the step. */
  between(): boolean | Promise<boolean>
}

/** Waking a second thread costs about as much as a decode step of a layer with this many weights. */
const SMALL_LAYER_WEIGHTS = 1 << 20
/** More threads than this cost more to wake than they save; A1 of attention-graph.ts was checked up to here. */
const THREADS_MAX = 16

type Feeds = Record<string, Tensor>

export class Transformer {
  readonly facts: LoadedModelFacts
  readonly slabs: KvSlabs
  readonly kernels: MemoryKernels
  readonly #config: ModelConfig
  readonly #embed: (row: number, target: Float32Array) => void
  readonly #dense: readonly InferenceSession[]
  readonly #attention: AttentionSessions
  readonly #rotary: Feeds
  readonly #slabTensors: readonly Tensor[]
  readonly #stats = { steps: 0, matrixCalls: 0, attentionCalls: 0, rows: 0 }

  private constructor(parts: {
    model: ResolvedModel
    facts: LoadedModelFacts
    slabs: KvSlabs
    embed: (row: number, target: Float32Array) => void
    dense: readonly InferenceSession[]
    attention: AttentionSessions
    kernels: MemoryKernels
    rotary: RotaryTables
  }) {
    const { slabs, rotary } = parts
    this.facts = parts.facts
    this.slabs = slabs
    this.kernels = parts.kernels
    this.#config = parts.model.config
    this.#embed = parts.embed
    this.#dense = parts.dense
    this.#attention = parts.attention
    const { headDim, layers } = this.#config
    this.#rotary = {
      cos: new Tensor('float32', rotary.cos, [rotary.positions, headDim / 2]),
      sin: new Tensor('float32', rotary.sin, [rotary.positions, headDim / 2]),
    }
    this.#slabTensors = Array.from(
      { length: layers },
      (_, layer) => new Tensor('float32', slabs.slab(layer), [slabs.runs, BLOCK_TOKENS, headDim]),
    )
  }

  /**
   * `wantedThreads`: of ONNX Runtime, for one call; by default what suits the model and the machine.
   * `isCancelled` is asked between layers, since a large model loads for seconds.
   * Throws for a model that is missing, damaged or unsupported, and CancelledError.
   */
  static async load(
    { model: spec, kvBlocksMax }: LoadModelOptions,
    wantedThreads: number | undefined,
    isCancelled: () => boolean,
  ): Promise<Transformer> {
    const model = await resolveModel(spec)
    const { config } = model
    const threads = Math.min(wantedThreads ?? suitableThreads(config), THREADS_MAX)
    const source = model.openWeights()
    try {
      const digest = await model.digest()
      const positions = Math.min(config.contextTokensMax, kvBlocksMax * BLOCK_TOKENS)
      const rotary = rotaryTables(config, Math.max(positions, STEP_ROWS_MAX))
      const embed = source.rows('model.embed_tokens.weight', [config.vocabularySize, config.hiddenSize])
      const dense: InferenceSession[] = []
      let weightBytes = 0
      for (const graph of buildDenseGraphs(config, source, rotary.positions)) {
        if (isCancelled()) throw new CancelledError('The driver was closed while it loaded a model.')
        weightBytes += graph.weights.byteLength
        const externalData = [{ path: WEIGHTS_PATH, data: graph.weights }]
        dense.push(await InferenceSession.create(graph.model, { ...sessionOptions(threads), externalData }))
      }
      const slabs = new KvSlabs(config, kvBlocksMax)
      const attention = await AttentionSessions.create(config, threads)
      const kernels = await MemoryKernels.create(config, slabs, threads)
      const facts = modelFacts(model, digest, slabs.blockBytes, weightBytes)
      return new Transformer({ model, facts, slabs, embed, dense, attention, kernels, rotary })
    } finally {
      source.close()
    }
  }

  stats(): DriverStats {
    return { ...this.#stats }
  }

  /** Throws InvalidInputError, before anything is computed, for a step that breaks the rules of its types. */
  async step(sequences: readonly StepSequence[], hooks: StepHooks): Promise<StepResult> {
    const begin = performance.now()
    this.#check(sequences)
    const order = rowOrder(sequences)
    const ordered = order.map((index) => sequences[index]).filter((sequence) => sequence !== undefined)
    const { heads, kvHeads, layers, vocabularySize } = this.#config
    const calls = planAttention(ordered.map(queryOf), this.#config, this.slabs)
    const rows = ordered.reduce((sum, sequence) => sum + sequence.tokens.length, 0)
    const positions = this.#positions(ordered, rows)
    const wanted = wantedRows(ordered)
    const finish = (logits: Float32Array, cancelled: boolean): StepResult => {
      this.#stats.steps++
      this.#stats.rows += rows
      return {
        logits,
        cancelled,
        elapsedUs: Math.round((performance.now() - begin) * 1000),
        failed: [],
        attention: [],
      }
    }

    let x: Float32Array = this.#embedRows(ordered, rows)
    let attention: Float32Array = new Float32Array(0)
    for (let layer = 0; layer < layers; layer++) {
      const feeds: Feeds = { x: this.#rowTensor(x, rows), positions, ...this.#rotary }
      if (layer > 0) feeds.attention = this.#rowTensor(attention, rows)
      const { q, k, v, nextX } = await this.#runDense(layer, feeds)
      if (layer > 0) x = floats(nextX)
      this.#write(layer, ordered, floats(k), floats(v))
      hooks.onLayer(layer)
      if (await hooks.between()) return finish(new Float32Array(0), true)
      if (layer === layers - 1) {
        if (wanted.length === 0) return finish(new Float32Array(0), false)
        // From here on only the last token of each sequence that wants logits counts.
        const width = heads * this.#config.headDim
        const lastCalls =
          wanted.length === rows
            ? calls
            : planAttention(
                wanted.map(({ query }) => query),
                { heads, kvHeads },
                this.slabs,
              )
        const lastQ = wanted.length === rows ? floats(q) : pickRows(floats(q), wanted, width)
        if (wanted.length !== rows) x = pickRows(x, wanted, this.#config.hiddenSize)
        attention = await this.#attend(layer, lastQ, wanted.length, lastCalls, hooks)
      } else {
        attention = await this.#attend(layer, floats(q), rows, calls, hooks)
      }
      if (await hooks.between()) return finish(new Float32Array(0), true)
    }
    const { logits } = await this.#runDense(layers, {
      x: this.#rowTensor(x, wanted.length),
      attention: this.#rowTensor(attention, wanted.length),
    })
    return finish(inCallersOrder(floats(logits), wanted, order, vocabularySize), false)
  }

  async #runDense(index: number, feeds: Feeds) {
    const session = this.#dense[index]
    if (session === undefined) throw new RangeError(`no dense graph ${index}`)
    this.#stats.matrixCalls++
    return session.run(feeds)
  }

  /** Runs a layer's attention calls; returns `[rows, heads · dim]`. */
  async #attend(
    layer: number,
    q: Float32Array,
    rows: number,
    calls: readonly AttentionCall[],
    hooks: StepHooks,
  ): Promise<Float32Array> {
    const slab = this.#slabTensors[layer]
    if (slab === undefined) throw new RangeError(`no layer ${layer}`)
    const width = this.#config.heads * this.#config.headDim
    let joined: Float32Array | undefined
    for (const [i, call] of calls.entries()) {
      this.#stats.attentionCalls++
      const part = await this.#attention.run(
        call,
        q.subarray(call.rowStart * width, (call.rowStart + call.rows) * width),
        slab,
      )
      if (call.rows === rows) return part
      joined ??= new Float32Array(rows * width)
      joined.set(part, call.rowStart * width)
      // The caller asks whether to go on; here others are only served.
      if (i < calls.length - 1) await hooks.between()
    }
    return joined ?? new Float32Array(0)
  }

  #write(layer: number, sequences: readonly StepSequence[], k: Float32Array, v: Float32Array): void {
    let row = 0
    for (const { blocks, start, tokens } of sequences) {
      this.slabs.writeTokens(layer, blocks, start, k, v, row, tokens.length)
      row += tokens.length
    }
  }

  #rowTensor(values: Float32Array, rows: number): Tensor {
    return new Tensor('float32', values, [1, rows, values.length / rows])
  }

  #positions(sequences: readonly StepSequence[], rows: number): Tensor {
    const positions = new BigInt64Array(rows)
    let row = 0
    for (const { start, tokens } of sequences) {
      for (let i = 0; i < tokens.length; i++) positions[row++] = BigInt(start + i)
    }
    return new Tensor('int64', positions, [1, rows])
  }

  #embedRows(sequences: readonly StepSequence[], rows: number): Float32Array {
    const { hiddenSize } = this.#config
    const x = new Float32Array(rows * hiddenSize)
    let row = 0
    for (const { tokens } of sequences) {
      for (const token of tokens) {
        this.#embed(token, x.subarray(row * hiddenSize, (row + 1) * hiddenSize))
        row++
      }
    }
    return x
  }

  #check(sequences: readonly StepSequence[]): void {
    let rows = 0
    for (const { blocks, start, tokens } of sequences) {
      const end = start + tokens.length
      rows += tokens.length
      if (tokens.length === 0) throw new InvalidInputError('A sequence of a step has no new tokens.')
      if (end > this.facts.contextTokensMax) {
        throw new InvalidInputError(
          `A sequence of ${end} tokens is longer than the context of ${this.facts.contextTokensMax}.`,
        )
      }
      if (blocks.length * BLOCK_TOKENS < end) {
        throw new InvalidInputError(`A sequence of ${end} tokens has only ${blocks.length} blocks.`)
      }
      this.slabs.checkBlocks(blocks)
      for (const token of tokens) {
        if (token >= this.facts.vocabularySize) {
          throw new InvalidInputError(`Token ${token} is outside the vocabulary of ${this.facts.name}.`)
        }
      }
    }
    if (rows === 0 || rows > STEP_ROWS_MAX) {
      throw new InvalidInputError(`A step takes 1 to ${STEP_ROWS_MAX} new tokens, not ${rows}.`)
    }
  }
}

function queryOf({ blocks, start, tokens }: StepSequence): Query {
  return { blocks, position: start, rows: tokens.length }
}

function suitableThreads({ hiddenSize, heads, kvHeads, headDim, intermediateSize }: ModelConfig): number {
  const layerWeights = hiddenSize * (2 * (heads + kvHeads) * headDim + 3 * intermediateSize)
  return layerWeights < SMALL_LAYER_WEIGHTS ? 1 : availableParallelism()
}

function modelFacts(
  model: ResolvedModel,
  digest: string,
  blockLayerBytes: number,
  weightBytes: number,
): LoadedModelFacts {
  const { config } = model
  const norms = (2 * config.layers + 1) * config.hiddenSize
  const separateHead = config.tiedEmbeddings ? 0 : config.vocabularySize * config.hiddenSize
  const biases = config.qkvBias ? config.layers * (config.heads + 2 * config.kvHeads) * config.headDim : 0
  return {
    name: model.name,
    digest,
    contextTokensMax: config.contextTokensMax,
    vocabularySize: config.vocabularySize,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
    blockLayerBytes,
    parameters: weightBytes / 4 + norms + biases + separateHead,
    weightBytes,
    stopTokens: model.stopTokens,
  }
}
