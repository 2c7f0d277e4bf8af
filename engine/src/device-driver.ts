/**
 * The seam to a device, the same for GPUs and FPGAs: models are loaded on it, each with a pool of KV
 * blocks and one call that runs a batch of sequences through the model.
 *
 * A prefill chunk and a decode step are the same call: a sequence brings the tokens
 * that are new to it (many in a prefill chunk, one in a decode step), so all rows of
 * a step share the matrix work.
 *
 * Invariants:
 * D1 The driver never chooses blocks: ids come from the agent's allocator, 0 ≤ id < kvBlocksMax.
 * D2 `step` writes the K/V of the new tokens into the sequence's blocks before it resolves;
 *    a layer reported by `onLayer` is readable from then on, even while the step goes on.
 * D3 The logits of a sequence depend on its tokens and the KV in its blocks alone: not on the batch, the
 *    chunking, or the block ids.
 * D4 Everything but another step is served between the layers of a running step, and while it waits for
 *    another device.
 * D5 Calls take effect in the order in which they were issued: a read sees what was there when it was
 *    issued, whatever is issued after it. So a block may be given to another as soon as its last read
 *    or copy was issued. This holds among the calls of one model; steps of different models take turns.
 * D6 The pages that sparse attention chooses depend on the sequence and its method alone, not on which
 *    device holds them: local and remote attention choose the same.
 */

import type { KvasirError } from '@kvasir/runtime/errors'
import type { AttentionKernelName, KernelInput, KernelOutput, SearchKernelName } from './kernels.js'
import type { Numerics } from './numerics.js'

/** Tokens in a full KV block. */
export const BLOCK_TOKENS = 16

/** One sequence's part of a step. */
export interface StepSequence {
  /** Block ids of the sequence in order, covering `start + tokens.length` tokens. */
  readonly blocks: Uint32Array
  /** Tokens whose K/V are already in the blocks. */
  readonly start: number
  /** New tokens, at positions `start`, `start + 1`, … */
  readonly tokens: Uint32Array
  /** Whether the logits of the last new token are wanted. */
  readonly wantLogits: boolean
  /** Which pages its one new token attends to; absent, or with several new tokens: all. */
  readonly attention?: SparseAttention
  /** Another device holds its first pages, or their bounds. For one new token only. */
  readonly remote?: RemoteAttention
  /** Whether `StepResult.attention` is wanted for it. For one new token only. */
  readonly trackPages?: boolean
}

/** A page is a block: BLOCK_TOKENS tokens of a sequence. The newest page is always attended to. */
export interface SparseAttention {
  /** page-bounds: Quest and LServe; random and recent are baselines for studies. */
  readonly method: 'page-bounds' | 'random' | 'recent'
  /** Pages that each KV head attends to, the newest included; at least 1. */
  readonly pages: number
  /** For `random`. */
  readonly seed: number
}

export interface RemoteAttention {
  /** The full pages at the start of the sequence that the other device answers for. */
  readonly pages: number
  /**
   * partial: K and V of these pages are there, and `StepSequence.blocks` begins with the page after them.
   * indices: only their bounds are there, and `StepSequence.blocks` holds all pages.
   */
  readonly mode: 'partial' | 'indices'
  /** Settles within a deadline of its owner's. A rejection fails this sequence alone. */
  ask(query: RemoteQuery): Promise<RemoteAnswer>
}

/** Of one layer of one step. */
export interface RemoteQuery {
  readonly layer: number
  /** `[query heads, head dim]`, after rotary embedding. */
  readonly q: Float32Array
  /** Pages to choose for each KV head among the other device's and the rivals; 0 means all (dense). */
  readonly pages: number
  /** Scores of this device's own pages but the newest, `[kv heads, rivals]`. */
  readonly rivals: Float32Array
}

export interface RemoteAnswer {
  /** Of each KV head, how many of the other device's pages were chosen. */
  readonly chosen: Uint32Array
  /** indices: the chosen pages, ascending, head after head. */
  readonly pages?: Uint32Array
  /** partial: attention over the chosen pages. */
  readonly partial?: PartialAttention
  readonly relevancyUs: number
  readonly retrievalUs: number
  readonly applyUs: number
  /** Bytes of the query and its answer on the wire. */
  readonly wireBytes: number
}

/** Attention over some of a sequence's tokens, which can be merged with that over the others exactly (DistAttention). */
export interface PartialAttention {
  /** `[query heads, head dim]`: Σ exp(s − max)·v ÷ Σ exp(s − max); 0 where no token was attended to. */
  readonly output: Float32Array
  /** Of each query head: the largest scaled score; −∞ where no token was attended to. */
  readonly max: Float32Array
  /** Of each query head: Σ exp(s − max); 0 where no token was attended to. */
  readonly sum: Float32Array
}

/** What one sequence's attention read in one step, all layers and KV heads together. */
export interface AttentionUse {
  /** Of each page of `StepSequence.blocks`: the share of (layer, KV head) pairs that read it, 0 to 1. */
  readonly reads: Float32Array
  /** Of each page of `StepSequence.blocks`: its mean attention weight over layers and heads; sums to at most 1. */
  readonly mass: Float32Array
  /** Summed over layers and KV heads: pages of the sequence, and pages attended to, wherever they are. */
  readonly pages: number
  readonly pagesRead: number
  /** Time of each stage, here and, as its answers tell, on the other device. */
  readonly prepareUs: number
  readonly relevancyUs: number
  readonly retrievalUs: number
  readonly applyUs: number
  /** From asking the other device to its answer, its stages included. */
  readonly remoteUs: number
  readonly wireBytes: number
}

export interface StepResult {
  /** `[sequences with wantLogits, vocabulary]`, in the order of the batch. */
  readonly logits: Float32Array
  /** Time on the device, microseconds, on the driver's clock. */
  readonly elapsedUs: number
  /** True where `cancelStep` ended it early: nothing was computed that may be used. */
  readonly cancelled: boolean
  /** Sequences, by their place in the batch, whose remote attention failed; their logits mean nothing. */
  readonly failed: readonly { readonly sequence: number; readonly error: KvasirError }[]
  /** By place in the batch; undefined where `trackPages` was not set or several tokens were new. */
  readonly attention: readonly (AttentionUse | undefined)[]
}

/** What loading a model would take, known before anything is loaded. */
export interface ModelPlan {
  readonly name: string
  readonly digest: string
  /** Resident bytes of the weights, embeddings included. */
  readonly weightBytes: number
  /** Bytes of one block over all layers in the device's pool. */
  readonly poolBlockBytes: number
  readonly contextTokensMax: number
}

/** Facts of a loaded model that placement and memory accounting need. */
export interface LoadedModelFacts {
  readonly name: string
  /** SHA-256 of the model's files, hexadecimal. */
  readonly digest: string
  readonly numerics: Numerics
  readonly contextTokensMax: number
  readonly vocabularySize: number
  readonly layers: number
  /** Query heads; a multiple of `kvHeads`. */
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** Tokens that attention looks back in at least one layer; absent where all layers see all tokens. */
  readonly slidingWindowTokens?: number
  /** Bytes of one block of one layer on the wire (kv-format.ts). */
  readonly blockLayerBytes: number
  /** Bytes of one block over all layers in the device's pool. */
  readonly poolBlockBytes: number
  readonly parameters: number
  /** Bytes of weights that one step reads. */
  readonly weightBytes: number
  /** Tokens that end a sequence unless the client ignores them. */
  readonly stopTokens: readonly number[]
}

/** Counters since the model was loaded. */
export interface DriverStats {
  readonly steps: number
  /** Matrix calls (dense graphs run), one a layer and step whatever the number of sequences, and the head. */
  readonly matrixCalls: number
  readonly attentionCalls: number
  readonly rows: number
}

export interface DriverDescription {
  /** Such as onnxruntime-cpu. */
  readonly name: string
  /** The device, such as AMD Alveo U280, where the driver knows it better than its kind does. */
  readonly deviceModel?: string
  /** Kernels with the version of their contract, and the largest inputs they take by name. */
  readonly kernels: readonly {
    readonly name: string
    readonly version: number
    readonly limits: Readonly<Record<string, number>>
  }[]
  /** Most rows (new tokens) that one step takes. */
  readonly rowsMax: number
}

export interface ModelOptions {
  /** A directory in Hugging Face layout, a GGUF file, or `dummy:NAME`. */
  readonly model: string
  readonly numerics: Numerics
}

export interface LoadModelOptions extends ModelOptions {
  /** Blocks in the KV pool. */
  readonly kvBlocksMax: number
}

export interface DeviceDriver {
  /** Resolves when the device is gone by itself, not by `close`: every call rejects from then on. */
  readonly lost: Promise<KvasirError>
  describe(): DriverDescription
  /** Rejects as `loadModel` does, but for memory. */
  inspectModel(options: ModelOptions): Promise<ModelPlan>
  /**
   * May be called again for another model. Rejects with InvalidInputError for a missing or corrupt model,
   * UnsupportedError for one that this driver cannot run, OverloadedError where memory does not suffice.
   */
  loadModel(options: LoadModelOptions): Promise<DriverModel>
  /** Rejects with UnsupportedError for a kernel it lacks, InvalidInputError beyond a declared limit. */
  runKernel<Name extends SearchKernelName>(name: Name, input: KernelInput<Name>): Promise<KernelOutput<Name>>
  /** Ends the device's thread or process. Pending calls reject. */
  close(): Promise<void>
}

/** One model on a device. After `unload`, or once the device is lost, its calls reject. */
export interface DriverModel {
  readonly facts: LoadedModelFacts
  /** One at a time. `onLayer(layer)` is called as each layer's K/V are in the blocks. */
  step(sequences: readonly StepSequence[], onLayer?: (layer: number) => void): Promise<StepResult>
  /** Ends a running step at its next layer, or at once where it waits for another device or model. */
  cancelStep(): void
  /** Copies whole blocks of one layer out, `blocks.length * blockLayerBytes` bytes, wire layout. */
  readBlocks(layer: number, blocks: Uint32Array): Promise<Uint8Array>
  /**
   * Copies whole blocks of one layer in. The driver may take ownership of `data`'s buffer where `data` is the
   * whole of it, or `owned` says that nobody else will use it.
   */
  writeBlocks(layer: number, blocks: Uint32Array, data: Uint8Array, owned?: boolean): Promise<void>
  /** Copies whole blocks of all layers, with their bounds, within the pool: `from[i]` to `to[i]`, as if all were read first. */
  copyBlocks(from: Uint32Array, to: Uint32Array): Promise<void>
  /** Page bounds of one layer, `[blocks][kv head][min|max][head dim]` f32; prepared first where they are missing. */
  readBounds(layer: number, blocks: Uint32Array): Promise<Uint8Array>
  /** Takes bounds that another device prepared; they stand until the block is written to. */
  writeBounds(layer: number, blocks: Uint32Array, data: Uint8Array): Promise<void>
  /** Rejects with UnsupportedError for a kernel it lacks, InvalidInputError beyond a declared limit. */
  runKernel<Name extends AttentionKernelName>(
    name: Name,
    input: KernelInput<Name>,
  ): Promise<KernelOutput<Name>>
  stats(): Promise<DriverStats>
  /** Frees the model and its pool after what was issued before. Pending steps are cancelled. */
  unload(): Promise<void>
}
