/**
 * A device for tests: no model, no thread, the same tokens for the same prompt.
 *
 * What a sequence's next token is depends on every token's entry in every layer of its KV blocks, so a
 * block that was lost, mixed up or overwritten changes the text. `expectedTokens` computes the same text
 * without any of it.
 *
 * F1 Entries are summed up, so that attention can give them: queries are zero, every token weighs the
 *    same, and a partial attention's output times its sum is the sum over the pages of the other device.
 * F2 With sparse attention the sum is over the chosen pages only: another text, but the same wherever the
 *    pages are. All scores are equal, so page bounds choose the first pages and the newest.
 */
import { createHash } from 'node:crypto'
import {
  BLOCK_TOKENS,
  type DeviceDriver,
  type DriverDescription,
  type DriverModel,
  type DriverStats,
  type LoadedModelFacts,
  type LoadModelOptions,
  type ModelOptions,
  type ModelPlan,
  type PartialAttention,
  type StepResult,
  type StepSequence,
} from '@kvasir/engine/device-driver'
import type { AttentionKernelName, KernelInput, KernelOutput, SearchKernelName } from '@kvasir/engine/kernels'
import { kvBlockBytes } from '@kvasir/engine/kv-format'
import type { Numerics } from '@kvasir/engine/numerics'
import { PageMeter } from '@kvasir/engine/page-meter'
import {
  newestAndBest,
  type PagePlan,
  pagePlanOf,
  randomScores,
  recentScores,
} from '@kvasir/engine/page-plan'
import { ownPages, partialOf, remoteQueryOf } from '@kvasir/engine/remote-attention'
import { type Deferred, deferred } from '@kvasir/runtime/deferred'
import {
  CancelledError,
  InternalError,
  InvalidInputError,
  KvasirError,
  NotFoundError,
} from '@kvasir/runtime/errors'
import type { DriverFactory } from '../definition.js'
import { FAKE_HEADS, FakePages, FLOATS_PER_BLOCK } from './fake-pages.js'
import { fromWire, toWire } from './fake-wire.js'

export interface FakeDriverOptions {
  readonly layers?: number
  readonly contextTokensMax?: number
  /** The device is gone once it resolves. */
  readonly lost?: Promise<KvasirError>
  /** Awaited before each layer of a step; a test holds a step with it. */
  readonly beforeLayer?: (layer: number, rows: number) => Promise<void>
  /** Awaited before a model's memory is free. */
  readonly beforeUnloaded?: () => Promise<void>
}

export const FAKE_VOCABULARY = 97
/** Ends a text, but the fake model never chooses it: tests name their own stop tokens. */
export const FAKE_STOP_TOKEN = 0

/** The model's only name. */
export const FAKE_MODEL = 'fake-model'
const FAKE_DIGEST = 'fa'.repeat(32)

/** One sequence during one step. */
interface FakeLane {
  readonly sequence: StepSequence
  readonly plan: PagePlan
  readonly meter: PageMeter | undefined
  /** What its last token is made of. */
  state: number
  error: unknown
}

const NO_QUERY = new Float32Array(FAKE_HEADS.headDim)

export class FakeDriver implements DeviceDriver {
  private readonly kernels = new FakePages()
  private readonly models: FakeModel[] = []

  constructor(private readonly options: FakeDriverOptions = {}) {}

  get lost(): Promise<KvasirError> {
    return this.options.lost ?? new Promise(() => {})
  }

  describe(): DriverDescription {
    const step = { name: 'step', version: 1, limits: {} }
    return { name: 'fake', kernels: [step, ...FakePages.kernels], rowsMax: 512 }
  }

  async inspectModel({ model, numerics }: ModelOptions): Promise<ModelPlan> {
    const { name, digest, poolBlockBytes, weightBytes, contextTokensMax } = fakeFacts(
      model,
      numerics,
      this.options,
    )
    return { name, digest, poolBlockBytes, weightBytes, contextTokensMax }
  }

  async loadModel({ model, numerics, kvBlocksMax }: LoadModelOptions): Promise<DriverModel> {
    const loaded = new FakeModel(fakeFacts(model, numerics, this.options), kvBlocksMax, this.options)
    this.models.push(loaded)
    return loaded
  }

  async runKernel<Name extends SearchKernelName>(
    name: Name,
    input: KernelInput<Name>,
  ): Promise<KernelOutput<Name>> {
    return this.kernels.run(name, input)
  }

  async close(): Promise<void> {
    for (const model of this.models) await model.unload()
  }
}

/** Any model whose name begins as FAKE_MODEL does. */
function fakeFacts(
  model: string,
  numerics: Numerics,
  { layers = 3, contextTokensMax = 2_048 }: FakeDriverOptions,
): LoadedModelFacts {
  if (!model.startsWith(FAKE_MODEL)) throw new InvalidInputError(`The fake device has no model ${model}.`)
  return {
    name: model,
    digest: model === FAKE_MODEL ? FAKE_DIGEST : createHash('sha256').update(model).digest('hex'),
    numerics,
    contextTokensMax,
    vocabularySize: FAKE_VOCABULARY,
    layers,
    ...FAKE_HEADS,
    blockLayerBytes: kvBlockBytes(FAKE_HEADS, numerics.wire),
    poolBlockBytes: layers * kvBlockBytes(FAKE_HEADS, numerics.pool),
    parameters: 1_000,
    weightBytes: numerics.weights === 'f32' ? 4_000 : 500,
    stopTokens: [FAKE_STOP_TOKEN],
  }
}

class FakeModel implements DriverModel {
  private readonly pages = new FakePages()
  private stepping = false
  private cancelled: Deferred<never> = deferred()
  private closed = false
  private counters = { steps: 0, matrixCalls: 0, attentionCalls: 0, rows: 0 }

  constructor(
    readonly facts: LoadedModelFacts,
    kvBlocksMax: number,
    private readonly options: FakeDriverOptions,
  ) {
    this.pages.allocate(facts.layers, kvBlocksMax)
  }

  async step(sequences: readonly StepSequence[], onLayer?: (layer: number) => void): Promise<StepResult> {
    if (this.stepping) throw new InternalError('The fake device was given two steps at once.')
    this.stepping = true
    this.cancelled = deferred()
    const startMs = performance.now()
    const rows = sequences.reduce((sum, { tokens }) => sum + tokens.length, 0)
    const lanes = sequences.map(laneOf)
    const result = (logits: Float32Array): StepResult => ({
      logits,
      elapsedUs: elapsedUs(startMs),
      cancelled: this.cancelled.settled,
      failed: lanes.flatMap(({ error }, sequence) =>
        error === undefined || this.cancelled.settled ? [] : [{ sequence, error: KvasirError.from(error) }],
      ),
      attention: lanes.map(({ meter }) => meter?.use()),
    })
    try {
      for (let layer = 0; layer < this.pages.layers; layer += 1) {
        await (this.options.beforeLayer?.(layer, rows) ?? nextTurn())
        if (this.closed) throw new InternalError('The fake device was closed.')
        if (this.cancelled.settled) return result(new Float32Array(0))
        for (const lane of lanes) this.store(layer, lane)
        this.counters.matrixCalls += 1
        this.counters.attentionCalls += sequences.length
        onLayer?.(layer)
        await Promise.all(lanes.map((lane) => this.attend(layer, lane)))
        if (this.cancelled.settled) return result(new Float32Array(0))
      }
      this.counters.steps += 1
      this.counters.matrixCalls += 1
      this.counters.rows += rows
      const wanted = lanes.filter(({ sequence }) => sequence.wantLogits)
      const logits = new Float32Array(wanted.length * FAKE_VOCABULARY)
      wanted.forEach(({ state }, row) => {
        for (let id = 0; id < FAKE_VOCABULARY; id += 1) {
          logits[row * FAKE_VOCABULARY + id] = id === nextToken(state) ? 9 : (state % (id + 2)) / 100
        }
      })
      return result(logits)
    } finally {
      this.stepping = false
    }
  }

  cancelStep(): void {
    this.cancelled.reject(new CancelledError('The step was cancelled.'))
  }

  async readBlocks(layer: number, blocks: Uint32Array): Promise<Uint8Array> {
    this.checkLoaded()
    return toWire(this.pages.read(layer, blocks), this.facts.numerics.wire)
  }

  async writeBlocks(layer: number, blocks: Uint32Array, data: Uint8Array): Promise<void> {
    const bytes = blocks.length * this.facts.blockLayerBytes
    if (data.byteLength !== bytes) {
      throw new InvalidInputError(`${blocks.length} blocks are ${bytes} bytes, not ${data.byteLength}.`)
    }
    this.pages.write(layer, blocks, fromWire(data, this.facts.numerics.wire))
  }

  async copyBlocks(from: Uint32Array, to: Uint32Array): Promise<void> {
    this.pages.copy(from, to)
  }

  async readBounds(layer: number, blocks: Uint32Array): Promise<Uint8Array> {
    this.checkLoaded()
    return new Uint8Array(this.pages.readBounds(layer, blocks).buffer)
  }

  async writeBounds(layer: number, blocks: Uint32Array, data: Uint8Array): Promise<void> {
    this.pages.writeBounds(layer, blocks, data)
  }

  async runKernel<Name extends AttentionKernelName>(
    name: Name,
    input: KernelInput<Name>,
  ): Promise<KernelOutput<Name>> {
    return this.pages.run(name, input)
  }

  async stats(): Promise<DriverStats> {
    return { ...this.counters }
  }

  async unload(): Promise<void> {
    this.closed = true
    await this.options.beforeUnloaded?.()
  }

  private checkLoaded(): void {
    if (this.closed) throw new NotFoundError('The fake model has been unloaded; load it again.')
  }

  /** The entry of a token: K holds the token, V what the layer makes of token and position. */
  private store(layer: number, { sequence: { blocks, start, tokens }, plan }: FakeLane): void {
    const slab = this.pages.slab(layer)
    tokens.forEach((token, row) => {
      const { block, key, value } = entryOf(blocks, start + row - plan.firstPage * BLOCK_TOKENS)
      slab[key] = token
      slab[value] = entryValue(token, start + row, layer)
      this.pages.drop(layer, block)
    })
  }

  /** Adds a layer to the state: the sum over the tokens attended to, here and there. */
  private async attend(layer: number, lane: FakeLane): Promise<void> {
    const { plan, sequence } = lane
    if (lane.error !== undefined || !sequence.wantLogits) return
    try {
      let pages = this.choose(layer, lane)
      let there = { sum: 0, tokens: 0 }
      if (plan.source === 'indices' || plan.source === 'partial') {
        const rivals = new Float32Array(plan.pages - plan.remotePages - 1)
        const query = remoteQueryOf(layer, NO_QUERY.slice(), plan, rivals)
        const startMs = performance.now()
        const answer = await Promise.race([
          sequence.remote?.ask(query) ?? Promise.reject(new InternalError('There is no device to ask.')),
          this.cancelled.promise,
        ])
        lane.meter?.add('remote', performance.now() - startMs)
        lane.meter?.addAnswer(answer, plan.source === 'partial')
        pages = ownPages(answer, plan, rivals, FAKE_HEADS)[0] ?? pages
        if (plan.source === 'partial') there = sumOf(partialOf(answer))
      }
      const here = this.sumHere(layer, lane, pages)
      lane.state = mix(lane.state, layer, there.sum + here.sum)
      const tokens = there.tokens + here.tokens
      lane.meter?.addHead(
        pages,
        here.byPage.map((own) => own / tokens),
      )
    } catch (error) {
      lane.error = error
    }
  }

  /** Pages of the sequence's blocks to attend to, where no other device is needed to choose them. */
  private choose(layer: number, { plan, sequence }: FakeLane): Uint32Array {
    const here = plan.pages - plan.firstPage
    const { method, seed } = sequence.attention ?? { method: 'recent', seed: 0 }
    if (plan.source !== 'choose') return Uint32Array.from({ length: here }, (_, page) => page)
    if (method === 'recent') return newestAndBest(recentScores(here - 1), plan.budget)
    if (method === 'random') {
      return newestAndBest(randomScores(here - 1, { seed }, layer, 0, sequence.start), plan.budget)
    }
    return newestAndBest(new Float32Array(here - 1), plan.budget)
  }

  private sumHere(layer: number, { sequence, plan }: FakeLane, pages: Uint32Array) {
    const slab = this.pages.slab(layer)
    const end = sequence.start + sequence.tokens.length - plan.firstPage * BLOCK_TOKENS
    const byPage = Array.from(pages, (page) => Math.min(BLOCK_TOKENS, end - page * BLOCK_TOKENS))
    let sum = 0
    for (const [i, page] of pages.entries()) {
      for (
        let position = page * BLOCK_TOKENS;
        position < page * BLOCK_TOKENS + (byPage[i] ?? 0);
        position++
      ) {
        const { key, value } = entryOf(sequence.blocks, position)
        const entry = slab[value] ?? -1
        const isRight = entry === entryValue(slab[key] ?? -1, position + plan.firstPage * BLOCK_TOKENS, layer)
        // An entry of another place counts as damage, since a sum does not see the order.
        sum += isRight ? entry : 1_000_003
      }
    }
    return { sum, byPage, tokens: byPage.reduce((all, own) => all + own, 0) }
  }
}

/** The `count` tokens that the fake model generates after `prompt`. */
export function expectedTokens(prompt: readonly number[], count: number, layers = 3): number[] {
  const tokens = [...prompt]
  while (tokens.length < prompt.length + count) {
    let state = SEED_STATE
    for (let layer = 0; layer < layers; layer += 1) {
      const sum = tokens.reduce((all, token, position) => all + entryValue(token, position, layer), 0)
      state = mix(state, layer, sum)
    }
    tokens.push(nextToken(state))
  }
  return tokens.slice(prompt.length)
}

/** Devices with the fake model. */
export function fakeFactory(options: FakeDriverOptions = {}): DriverFactory {
  return { create: async () => new FakeDriver(options) }
}

const SEED_STATE = 17

function laneOf(sequence: StepSequence): FakeLane {
  const plan = pagePlanOf(sequence)
  const isMeasured = sequence.trackPages === true && sequence.tokens.length === 1
  const meter = isMeasured ? new PageMeter(plan, sequence.blocks.length) : undefined
  return { sequence, plan, meter, state: SEED_STATE, error: undefined }
}

/** Where the entry of a token is: `position` counts from the first of `blocks`. */
function entryOf(blocks: Uint32Array, position: number) {
  const block = blocks[Math.floor(position / BLOCK_TOKENS)]
  if (block === undefined) throw new InternalError(`A step has no block for position ${position}.`)
  const key = block * FLOATS_PER_BLOCK + (position % BLOCK_TOKENS) * FAKE_HEADS.headDim
  return { block, key, value: key + BLOCK_TOKENS * FAKE_HEADS.headDim }
}

function entryValue(token: number, position: number, layer: number): number {
  return (token * 7 + position * 3 + layer) % 1_000
}

/** Every token of a partial attention weighs the same, since queries are zero. */
function sumOf({ output, sum: [tokens = 0] }: PartialAttention): { sum: number; tokens: number } {
  return { sum: Math.round((output[0] ?? 0) * tokens), tokens }
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
