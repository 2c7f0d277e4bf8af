/**
 * The seam to a device, the same for GPUs and FPGAs: a pool of KV blocks and one
 * call that runs a batch of sequences through the model.
 *
 * A prefill chunk and a decode step are the same call: a sequence brings the tokens
 * that are new to it (many in a prefill chunk, one in a decode step), so all rows of
 * a step share the matrix work.
 *
 * Invariants:
 * D1 The driver never chooses blocks: ids come from the agent's allocator, 0 ≤ id < kvBlocksMax.
 * D2 `step` writes the K/V of the new tokens into the sequence's blocks before it resolves;
 *    a layer reported by `onLayer` is readable from then on, even while the step goes on.
 * D3 The logits of a sequence depend on its tokens alone: not on the batch, the chunking,
 *    or the block ids.
 * D4 `readBlocks` and `writeBlocks` are served between the layers of a running step.
 */

import type { KvasirError } from '@kvasir/runtime/errors'

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
}

export interface StepResult {
  /** `[sequences with wantLogits, vocabulary]`, in the order of the batch. */
  readonly logits: Float32Array
  /** Time on the device, microseconds, on the driver's clock. */
  readonly elapsedUs: number
  /** True where `cancelStep` ended it early: nothing was computed that may be used. */
  readonly cancelled: boolean
}

/** Facts of a loaded model that placement and memory accounting need. */
export interface LoadedModelFacts {
  readonly name: string
  /** SHA-256 of the model's files, hexadecimal. */
  readonly digest: string
  readonly contextTokensMax: number
  readonly vocabularySize: number
  readonly layers: number
  readonly kvHeads: number
  readonly headDim: number
  /** Bytes of one block of one layer in wire layout `[K|V][kv head][token][head dim]`, f32. */
  readonly blockLayerBytes: number
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
  /** Kernels with the version of their contract. */
  readonly kernels: readonly { readonly name: string; readonly version: number }[]
  /** Most rows (new tokens) that one step takes. */
  readonly rowsMax: number
}

export interface LoadModelOptions {
  /** A directory in Hugging Face layout, or `dummy:NAME`. */
  readonly model: string
  /** Blocks in the KV pool. */
  readonly kvBlocksMax: number
}

export interface DeviceDriver {
  /** Resolves when the device is gone by itself, not by `close`: every call rejects from then on. */
  readonly lost: Promise<KvasirError>
  describe(): DriverDescription
  /** Rejects with InvalidInputError for a missing, corrupt or unsupported model. Called once. */
  loadModel(options: LoadModelOptions): Promise<LoadedModelFacts>
  /** One at a time. `onLayer(layer)` is called as each layer's K/V are in the blocks. */
  step(sequences: readonly StepSequence[], onLayer?: (layer: number) => void): Promise<StepResult>
  /** Ends a running step at its next layer. */
  cancelStep(): void
  /** Copies whole blocks of one layer out, `blocks.length * blockLayerBytes` bytes, wire layout. */
  readBlocks(layer: number, blocks: Uint32Array): Promise<Uint8Array>
  /** Copies whole blocks of one layer in; the driver may take ownership of `data`'s buffer. */
  writeBlocks(layer: number, blocks: Uint32Array, data: Uint8Array): Promise<void>
  stats(): Promise<DriverStats>
  /** Ends the device's thread or process. Pending calls reject. */
  close(): Promise<void>
}
