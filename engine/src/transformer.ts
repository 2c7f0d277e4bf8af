/**
 * A loaded model and its KV pool: runs one step of a batch, layer by layer, on ONNX Runtime.
 *
 * E1 One dense call a layer and step, whatever the number of sequences, and one for the head.
 * E2 The K/V of new tokens are in the slab before the layer's attention, and are reported then.
 * E3 Of the last layer only the rows whose logits are wanted are computed beyond their K/V.
 * E4 Rows are bit-equal whatever the batch, chunking, padding and block ids; attention-graph.ts and
 *    dense-graphs.ts say by which rules.
 * `session.run` blocks this thread. Not the job of this file: which pages are attended to, and other
 * devices (step-attention.ts); threads and messages (ort-worker.ts).
 */
import { availableParallelism } from 'node:os'
import { CancelledError, KvasirError } from '@kvasir/runtime/errors'
import { InferenceSession, Tensor } from 'onnxruntime-node'
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
import { createInt4Quantiser } from './int4-quantiser.js'
import { KvSlabs } from './kv-slab.js'
import { THREADS_MAX } from './limits.js'
import { MemoryKernels } from './memory-kernels.js'
import type { ModelConfig } from './model-config.js'
import { type ResolvedModel, resolveModel } from './model-files.js'
import { checkMemory, memoryNeed } from './model-memory.js'
import { parameterCount } from './model-plan.js'
import type { Numerics } from './numerics.js'
import { WEIGHTS_PATH } from './onnx-graph.js'
import { type ComputeOptions, floats, sessionOptions } from './ort-session.js'
import { rotaryTables, tablePositions } from './rotary.js'
import { StepAttention } from './step-attention.js'
import { checkStep, embedRows, positionsOf, rowTensor } from './step-inputs.js'
import { inCallersOrder, laneOf, layoutOf, pickRows, type StepLayout, wantedLayout } from './step-layout.js'

export interface StepHooks {
  /** The layer's K/V of all new tokens are in the blocks. */
  onLayer(layer: number): void
  /** Called between calls into ONNX Runtime, the time to serve others; true ends the step. */
  between(): boolean | Promise<boolean>
}

/** Waking a second thread costs about as much as a decode step of a layer with this many weights. */
const SMALL_LAYER_WEIGHTS = 1 << 20

type Feeds = Record<string, Tensor>

export class Transformer {
  readonly facts: LoadedModelFacts
  readonly slabs: KvSlabs
  readonly kernels: MemoryKernels
  readonly #config: ModelConfig
  readonly #embed: (row: number, target: Float32Array) => void
  readonly #dense: readonly InferenceSession[]
  readonly #attention: StepAttention
  #rotary: { readonly positions: number; readonly tables: Feeds }
  readonly #stats = { steps: 0, matrixCalls: 0, rows: 0 }

  private constructor(parts: {
    model: ResolvedModel
    facts: LoadedModelFacts
    slabs: KvSlabs
    embed: (row: number, target: Float32Array) => void
    dense: readonly InferenceSession[]
    attention: StepAttention
    kernels: MemoryKernels
  }) {
    this.facts = parts.facts
    this.slabs = parts.slabs
    this.kernels = parts.kernels
    this.#config = parts.model.config
    this.#embed = parts.embed
    this.#dense = parts.dense
    this.#attention = parts.attention
    this.#rotary = rotaryFeeds(this.#config, tablePositions(this.#config, 0))
  }

  /**
   * `betweenLayers` is called before each layer, since a large model loads for seconds: the time for others to
   * compute; true ends the loading.
   * Throws for a model that is missing, damaged or unsupported, and CancelledError.
   */
  static async load(
    { model: spec, numerics, kvBlocksMax }: LoadModelOptions,
    { threads: wantedThreads, provider }: ComputeOptions,
    betweenLayers: () => boolean | Promise<boolean>,
  ): Promise<Transformer> {
    const model = await resolveModel(spec)
    const { config } = model
    const threads = Math.min(wantedThreads ?? suitableThreads(config), THREADS_MAX)
    const source = model.openWeights()
    const dense: InferenceSession[] = []
    try {
      checkMemory(model.name, numerics, memoryNeed(config, source, numerics, kvBlocksMax))
      const digest = await model.digest()
      const embed = source.rows('model.embed_tokens.weight', [config.vocabularySize, config.hiddenSize])
      const quantiser = numerics.weights === 'int4' ? await createInt4Quantiser() : undefined
      let weightBytes = 0
      for (const graph of buildDenseGraphs(config, source, quantiser)) {
        if (await betweenLayers()) throw new CancelledError('The driver was closed while it loaded a model.')
        weightBytes += graph.weights.byteLength
        const externalData = [{ path: WEIGHTS_PATH, data: graph.weights }]
        dense.push(
          await InferenceSession.create(graph.model, { ...sessionOptions(threads, provider), externalData }),
        )
      }
      const slabs = new KvSlabs(config, kvBlocksMax, numerics)
      const sessions = await AttentionSessions.create(config, numerics.pool, threads)
      const kernels = await MemoryKernels.create(config, slabs, threads)
      const attention = new StepAttention({ config, slabs, sessions, kernels })
      const facts = modelFacts(model, numerics, digest, slabs, weightBytes)
      return new Transformer({ model, facts, slabs, embed, dense, attention, kernels })
    } catch (error) {
      // The weights so far: nothing else would free them soon.
      for (const session of dense) await session.release()
      throw error
    } finally {
      source.close()
    }
  }

  readonly stats = (): DriverStats => ({ ...this.#stats, attentionCalls: this.#attention.calls })

  /** Frees what the garbage collector does not know of. No step may run. */
  async release(): Promise<void> {
    for (const session of this.#dense) await session.release()
    await this.#attention.release()
    await this.kernels.release()
  }

  /** Throws InvalidInputError, before anything is computed, for a step that breaks the rules of its types. */
  async step(sequences: readonly StepSequence[], hooks: StepHooks): Promise<StepResult> {
    const begin = performance.now()
    checkStep(sequences, this.facts, this.slabs)
    const { heads, kvHeads, headDim, hiddenSize, layers, vocabularySize } = this.#config
    const lanes = sequences.map((sequence, index) => laneOf(sequence, index, kvHeads))
    const all = layoutOf(lanes, this.#config, this.slabs)
    const wanted = wantedLayout(all, this.#config, this.slabs)
    const { rows } = all
    const positions = positionsOf(all)
    const rotary = this.#rotaryFor(Math.max(...sequences.map(({ start, tokens }) => start + tokens.length)))
    const finish = (logits: Float32Array, cancelled: boolean): StepResult => {
      this.#stats.steps++
      this.#stats.rows += rows
      return {
        logits,
        cancelled,
        elapsedUs: Math.round((performance.now() - begin) * 1000),
        failed: lanes.flatMap(({ index, error }) =>
          error === undefined || cancelled ? [] : [{ sequence: index, error: KvasirError.from(error) }],
        ),
        attention: lanes.map(({ meter }) => meter?.use()),
      }
    }

    let x: Float32Array = embedRows(all, this.#embed, hiddenSize)
    let attention: Float32Array = new Float32Array(0)
    for (let layer = 0; layer < layers; layer++) {
      const feeds: Feeds = { x: rowTensor(x, rows), positions, ...rotary }
      if (layer > 0) feeds.attention = rowTensor(attention, rows)
      const { q, k, v, nextX } = await this.#runDense(layer, feeds)
      if (layer > 0) x = floats(nextX)
      this.#write(layer, all, floats(k), floats(v))
      hooks.onLayer(layer)
      if (await hooks.between()) return finish(new Float32Array(0), true)
      if (layer === layers - 1) {
        if (wanted.rows === 0) return finish(new Float32Array(0), false)
        // From here on only the last token of each sequence that wants logits counts.
        x = pickRows(x, wanted, hiddenSize)
      }
      const layout = layer === layers - 1 ? wanted : all
      attention = await this.#attention.run(
        layer,
        pickRows(floats(q), layout, heads * headDim),
        layout,
        hooks.between,
      )
      if (await hooks.between()) return finish(new Float32Array(0), true)
    }
    const { logits } = await this.#runDense(layers, {
      x: rowTensor(x, wanted.rows),
      attention: rowTensor(attention, wanted.rows),
    })
    return finish(inCallersOrder(floats(logits), wanted, vocabularySize), false)
  }

  /** Tables for positions before `end`, which may lie beyond the pool: other devices hold pages too. */
  #rotaryFor(end: number): Feeds {
    if (end > this.#rotary.positions) {
      this.#rotary = rotaryFeeds(this.#config, tablePositions(this.#config, end))
    }
    return this.#rotary.tables
  }

  async #runDense(index: number, feeds: Feeds) {
    const session = this.#dense[index]
    if (session === undefined) throw new RangeError(`no dense graph ${index}`)
    this.#stats.matrixCalls++
    return session.run(feeds)
  }

  #write(layer: number, { entries }: StepLayout, k: Float32Array, v: Float32Array): void {
    for (const { lane, row } of entries) {
      const { blocks, start, tokens } = lane.sequence
      const startHere = start - lane.plan.firstPage * BLOCK_TOKENS
      this.slabs.writeTokens(layer, blocks, startHere, k, v, row, tokens.length)
    }
  }
}

function rotaryFeeds(config: ModelConfig, length: number) {
  const { cos, sin, positions } = rotaryTables(config, length)
  const shape = [positions, config.headDim / 2]
  return {
    positions,
    tables: { cos: new Tensor('float32', cos, shape), sin: new Tensor('float32', sin, shape) },
  }
}

function suitableThreads({ hiddenSize, heads, kvHeads, headDim, intermediateSize }: ModelConfig): number {
  const layerWeights = hiddenSize * (2 * (heads + kvHeads) * headDim + 3 * intermediateSize)
  return layerWeights < SMALL_LAYER_WEIGHTS ? 1 : availableParallelism()
}

function modelFacts(
  model: ResolvedModel,
  numerics: Numerics,
  digest: string,
  slabs: KvSlabs,
  weightBytes: number,
): LoadedModelFacts {
  const { config } = model
  return {
    name: model.name,
    digest,
    contextTokensMax: config.contextTokensMax,
    vocabularySize: config.vocabularySize,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
    ...(config.slidingWindow === undefined ? {} : { slidingWindowTokens: config.slidingWindow.tokens }),
    numerics,
    blockLayerBytes: slabs.blockBytes,
    poolBlockBytes: config.layers * slabs.poolBlockBytes,
    parameters: parameterCount(config),
    weightBytes,
    stopTokens: model.stopTokens,
  }
}
