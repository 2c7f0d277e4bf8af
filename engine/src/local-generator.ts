/**
 * The engine in one process: the same driver, steps and sampling as in a cluster, without the cluster.
 *
 * N1 Sequences that run together share steps: one row each that decodes, and chunks of prompts.
 * N2 A sequence starts when blocks for all of its tokens are free, so none can run out half-way.
 * N3 What a sequence says does not depend on what runs beside it.
 * N4 A sequence that is aborted, or whose consumer leaves its loop, frees its blocks after the
 *    step that is running.
 */
import { availableMemoryBytes } from '@kvasir/runtime/available-memory'
import { AsyncQueue } from '@kvasir/runtime/deferred'
import { CancelledError, InvalidInputError, OverloadedError } from '@kvasir/runtime/errors'
import { type AttentionBudget, attentionAt, checkBudget } from './attention-budget.js'
import {
  type AttentionUse,
  BLOCK_TOKENS,
  type DeviceDriver,
  type DriverModel,
  type LoadedModelFacts,
  type StepSequence,
} from './device-driver.js'
import { DECODE_SEQUENCES_MAX, PREFILL_CHUNK_TOKENS, STEP_ROWS_MAX } from './limits.js'
import { resolveModel } from './model-files.js'
import { memoryNeed, poolBytesOfBlock } from './model-memory.js'
import { EXACT, type Numerics } from './numerics.js'
import { createOrtDriver } from './ort-driver.js'
import { type SampledToken, type SamplingParameters, sampleToken } from './sampler.js'

export interface GenerateOptions {
  readonly sampling: SamplingParameters
  /** Most tokens of the answer; the context may end it before. */
  readonly maxTokens: number
  /** Tokens that end the answer; the one that did comes as its last token. */
  readonly stopTokens: readonly number[]
  /** How decoding attends; prompts are attended to densely. With it, what is read is counted. */
  readonly attention?: AttentionBudget | { readonly method: 'dense' }
  readonly signal?: AbortSignal
}

export interface GeneratedToken extends SampledToken {
  /** Set on the last token. */
  readonly finishReason?: 'stop' | 'length'
  /**
   * Bytes of K and V that attention read for it, where `attention` was given and it is no prompt's; the
   * bounds that page-bounds reads to choose pages are a sixteenth of the KV that it chooses from.
   */
  readonly kvBytesRead?: number
}

export interface LocalGenerator {
  /** Its context is what fits into memory, which may be less than the model's. */
  readonly facts: LoadedModelFacts
  /**
   * Answers a prompt, token by token. Throws InvalidInputError for a prompt that is empty or leaves no
   * room in the context, CancelledError or the signal's reason once aborted.
   */
  generate(promptTokens: readonly number[], options: GenerateOptions): AsyncIterable<GeneratedToken>
  /** Ends the driver; running answers throw CancelledError. */
  close(): Promise<void>
}

interface Sequence {
  readonly prompt: readonly number[]
  readonly options: GenerateOptions
  readonly queue: AsyncQueue<GeneratedToken>
  /** Tokens that the answer may have. */
  readonly answerMax: number
  readonly blocksNeeded: number
  blocks: Uint32Array
  /** Tokens whose K/V are in the blocks. */
  cached: number
  answered: number
  lastToken: number
}

/** Memory of the KV pool; a model whose single full context needs more gets that much, as far as there is room. */
const KV_POOL_BYTES = 1 << 30
/** Of the memory that the weights leave: what is available changes while they are loaded. */
const POOL_SHARE = 0.9
/** 2,048 tokens: with less a model is of little use. */
const POOL_BLOCKS_MIN = 128
/** Sequences that may wait for blocks; more are refused. */
const WAITING_MAX = 1024

export async function createLocalGenerator(options: {
  readonly model: string
  readonly numerics?: Numerics
  readonly threads?: number
}): Promise<LocalGenerator> {
  const { model, numerics = EXACT, threads } = options
  const driver = createOrtDriver(threads === undefined ? {} : { threads })
  try {
    const kvBlocksMax = await poolBlocks(model, numerics)
    const loaded = await driver.loadModel({ model, numerics, kvBlocksMax })
    return new Generator(driver, loaded, kvBlocksMax)
  } catch (error) {
    await driver.close()
    throw error
  }
}

class Generator implements LocalGenerator {
  readonly facts: LoadedModelFacts
  readonly #driver: DeviceDriver
  readonly #model: DriverModel
  readonly #freeBlocks: number[]
  readonly #waiting: Sequence[] = []
  readonly #running: Sequence[] = []
  #stepping = false
  #closed = false

  constructor(driver: DeviceDriver, model: DriverModel, kvBlocksMax: number) {
    this.#driver = driver
    this.#model = model
    const contextTokensMax = Math.min(model.facts.contextTokensMax, kvBlocksMax * BLOCK_TOKENS)
    this.facts = { ...model.facts, contextTokensMax }
    this.#freeBlocks = Array.from({ length: kvBlocksMax }, (_, i) => kvBlocksMax - 1 - i)
  }

  async *generate(
    promptTokens: readonly number[],
    options: GenerateOptions,
  ): AsyncGenerator<GeneratedToken, void, undefined> {
    const sequence = this.#admit(promptTokens, options)
    const { signal } = options
    const abort = () => sequence.queue.fail(signal?.reason)
    signal?.addEventListener('abort', abort, { once: true })
    this.#waiting.push(sequence)
    void this.#run()
    try {
      yield* sequence.queue
    } finally {
      signal?.removeEventListener('abort', abort)
      sequence.queue.end()
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const { queue } of [...this.#running, ...this.#waiting]) {
      queue.fail(new CancelledError('The engine was closed.'))
    }
    await this.#driver.close()
  }

  #admit(prompt: readonly number[], options: GenerateOptions): Sequence {
    const context = this.facts.contextTokensMax
    if (this.#closed) throw new CancelledError('The engine was closed.')
    if (prompt.length === 0) throw new InvalidInputError('The prompt is empty; give at least one token.')
    if (prompt.length >= context) {
      throw new InvalidInputError(
        `The prompt has ${prompt.length} tokens and leaves no room in the context of ${context}; shorten it.`,
      )
    }
    if (!Number.isInteger(options.maxTokens) || options.maxTokens <= 0) {
      throw new InvalidInputError('maxTokens must be a whole number above 0.', { param: 'max_tokens' })
    }
    if (this.#waiting.length >= WAITING_MAX) {
      throw new OverloadedError(`${WAITING_MAX} prompts wait already; try again later.`)
    }
    const { attention } = options
    if (attention !== undefined && attention.method !== 'dense') checkBudget(attention)
    options.signal?.throwIfAborted()
    const answerMax = Math.min(options.maxTokens, context - prompt.length)
    return {
      prompt,
      options,
      queue: new AsyncQueue(answerMax),
      answerMax,
      blocksNeeded: Math.ceil((prompt.length + answerMax) / BLOCK_TOKENS),
      blocks: new Uint32Array(0),
      cached: 0,
      answered: 0,
      lastToken: 0,
    }
  }

  /** Steps as long as there is work. */
  async #run(): Promise<void> {
    if (this.#stepping) return
    this.#stepping = true
    try {
      while (this.#collect()) await this.#step()
    } catch (error) {
      for (const { queue } of [...this.#running, ...this.#waiting]) queue.fail(error)
      this.#collect()
    } finally {
      this.#stepping = false
    }
  }

  /** Frees what has ended and starts what fits, in order of arrival; false when nothing is left to run. */
  #collect(): boolean {
    for (let i = this.#running.length - 1; i >= 0; i--) {
      const sequence = this.#running[i]
      if (sequence === undefined || !sequence.queue.closed) continue
      this.#freeBlocks.push(...sequence.blocks)
      this.#running.splice(i, 1)
    }
    while (this.#running.length < DECODE_SEQUENCES_MAX) {
      const next = this.#waiting[0]
      if (next === undefined) break
      if (!next.queue.closed) {
        if (next.blocksNeeded > this.#freeBlocks.length) break
        next.blocks = Uint32Array.from(this.#freeBlocks.splice(-next.blocksNeeded))
        this.#running.push(next)
      }
      this.#waiting.shift()
    }
    return this.#running.length > 0
  }

  async #step(): Promise<void> {
    const batch: { sequence: Sequence; part: StepSequence }[] = []
    let rows = 0
    for (const sequence of this.#running) {
      if (sequence.cached < sequence.prompt.length) continue
      batch.push({
        sequence,
        part: { ...this.#part(sequence, [sequence.lastToken], true), ...pagesOf(sequence) },
      })
      rows++
    }
    for (const sequence of this.#running) {
      const left = sequence.prompt.length - sequence.cached
      const count = Math.min(left, PREFILL_CHUNK_TOKENS, STEP_ROWS_MAX - rows)
      if (left <= 0 || count <= 0) continue
      const tokens = sequence.prompt.slice(sequence.cached, sequence.cached + count)
      batch.push({ sequence, part: this.#part(sequence, tokens, count === left) })
      rows += count
    }
    const { logits, attention } = await this.#model.step(batch.map(({ part }) => part))
    const width = this.facts.vocabularySize
    let row = 0
    for (const [i, { sequence, part }] of batch.entries()) {
      sequence.cached += part.tokens.length
      if (!part.wantLogits) continue
      this.#answer(sequence, logits.subarray(row * width, (row + 1) * width), attention[i])
      row++
    }
  }

  #part(sequence: Sequence, tokens: readonly number[], wantLogits: boolean): StepSequence {
    return {
      blocks: sequence.blocks,
      start: sequence.cached,
      tokens: Uint32Array.from(tokens),
      wantLogits,
    }
  }

  #answer(sequence: Sequence, logits: Float32Array, use: AttentionUse | undefined): void {
    const { queue, options } = sequence
    const pageBytes = this.facts.poolBlockBytes / this.facts.layers / this.facts.kvHeads
    const token: GeneratedToken = {
      ...sampleToken(logits, options.sampling, sequence.answered),
      ...(use === undefined ? {} : { kvBytesRead: use.pagesRead * pageBytes }),
    }
    sequence.answered++
    sequence.lastToken = token.id
    const stopped = options.stopTokens.includes(token.id)
    if (!stopped && sequence.answered < sequence.answerMax) {
      queue.push(token)
      return
    }
    queue.push({ ...token, finishReason: stopped ? 'stop' : 'length' })
    queue.end()
  }
}

/** What a decode step of the sequence attends to, and that it is counted. */
function pagesOf({ cached, options: { attention, sampling } }: Sequence): Partial<StepSequence> {
  if (attention === undefined) return {}
  if (attention.method === 'dense') return { trackPages: true }
  return { trackPages: true, attention: attentionAt(attention, cached, sampling.seed) }
}

/** Blocks for as many full contexts as fit the pool's memory, at least one where the machine has room for it. */
async function poolBlocks(spec: string, numerics: Numerics): Promise<number> {
  const { config, openWeights } = await resolveModel(spec)
  const contextBlocks = Math.ceil(config.contextTokensMax / BLOCK_TOKENS)
  const blockBytes = poolBytesOfBlock(config, numerics)
  const affordable = Math.floor(KV_POOL_BYTES / blockBytes)
  const wanted = Math.max(contextBlocks, Math.min(affordable, contextBlocks * DECODE_SEQUENCES_MAX))
  const source = openWeights()
  try {
    const { weightBytes, workingBytes } = memoryNeed(config, source, numerics, wanted)
    const room = (availableMemoryBytes() - weightBytes - workingBytes) * POOL_SHARE
    const fitting = Math.min(wanted, Math.floor(room / blockBytes))
    // Where not even these fit, the device refuses the load and says what is lacking.
    return Math.max(fitting, Math.min(contextBlocks, POOL_BLOCKS_MIN))
  } finally {
    source.close()
  }
}
