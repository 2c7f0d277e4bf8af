/**
 * The kernels of the memory pipeline that a device driver offers, beside the model's own step: what
 * goes in, what comes out. What a driver declares of each (DriverDescription.kernels) bounds what it takes.
 *
 * Invariants: a kernel's output depends on its input and on what the named blocks or shards hold, and
 * on nothing else; two drivers agree on indices exactly (ties go to the smaller index) and on sums
 * within rounding.
 */
import type { PartialAttention } from './device-driver.js'

export interface Kernels {
  /** Prepare (LServe): of each page and KV head the channel-wise minimum and maximum of its keys. */
  'page-bounds': {
    readonly input: { readonly layer: number; readonly blocks: Uint32Array }
    /** `[blocks, kv heads, min|max, head dim]`. */
    readonly output: Float32Array
  }
  /**
   * Relevancy (Quest, LServe): Σ_c max(q_c·max_c, q_c·min_c), at least every q·k of the page; of the query
   * heads that share a KV head the largest.
   */
  'page-scores': {
    readonly input: { readonly layer: number; readonly q: Float32Array; readonly blocks: Uint32Array }
    /** `[kv heads, blocks]`. */
    readonly output: Float32Array
  }
  /** Retrieval: of each row the columns of the `k` largest values, ascending; all where there are fewer. */
  'top-k': {
    readonly input: { readonly values: Float32Array; readonly rows: number; readonly k: number }
    /** `[rows, min(k, columns)]`. */
    readonly output: Uint32Array
  }
  /** Apply: dense attention of one query over full pages, which may differ from KV head to KV head. */
  'partial-attention': {
    readonly input: {
      readonly layer: number
      /** `[query heads, head dim]`. */
      readonly q: Float32Array
      /** Of each KV head its blocks, in the order of the sequence. */
      readonly blocks: readonly Uint32Array[]
    }
    readonly output: PartialAttention
  }
  /** Relevancy, retrieval and, with `attend`, apply in one call, which saves two trips to the device. */
  'choose-pages': {
    readonly input: {
      readonly layer: number
      readonly q: Float32Array
      readonly blocks: Uint32Array
      /** Pages to choose for each KV head among `blocks` and the rivals; 0 means all. */
      readonly pages: number
      /** `[kv heads, rivals]`: scores of later pages that are elsewhere. Of two equal scores the earlier page wins. */
      readonly rivals: Float32Array
      readonly attend: boolean
    }
    readonly output: {
      /** Of each KV head: the chosen ones as positions in `blocks`, ascending. */
      readonly chosen: readonly Uint32Array[]
      readonly partial: PartialAttention | undefined
      /** With `attend`, of each KV head the weight of each chosen page in that attention; sums to 1 where any was chosen. */
      readonly mass: readonly Float32Array[] | undefined
      readonly relevancyUs: number
      readonly retrievalUs: number
      readonly applyUs: number
    }
  }
  /** Holds a shard of postings (bm25/shard-format.ts says in which form) under a key; replaces what was there. The driver may take ownership of `shard`'s buffer. */
  'bm25-load': {
    readonly input: { readonly key: string; readonly shard: Uint8Array }
    /** Bytes it takes. */
    readonly output: number
  }
  /** Lets go of a shard; nothing happens where there is none. */
  'bm25-unload': { readonly input: { readonly key: string }; readonly output: undefined }
  /** Relevancy and retrieval of RAG: BM25 over a shard. Rejects with NotFoundError for a key that is not held. */
  'bm25-search': {
    readonly input: {
      readonly key: string
      /** Term numbers, ascending, and the weight of each. */
      readonly terms: Uint32Array
      readonly weights: Float64Array
      readonly meanLength: number
      readonly k: number
    }
    /** Best first; of equal scores the smaller number first. Documents without any term are not among them. */
    readonly output: {
      readonly documents: Uint32Array
      readonly scores: Float64Array
      readonly relevancyUs: number
      readonly retrievalUs: number
    }
  }
}

export type KernelName = keyof Kernels
/** Kernels that need no model: of DeviceDriver. */
export type SearchKernelName = 'bm25-load' | 'bm25-unload' | 'bm25-search'
/** Kernels of a model's attention: of DriverModel. */
export type AttentionKernelName = Exclude<KernelName, SearchKernelName>
export type KernelInput<Name extends KernelName> = Kernels[Name]['input']
export type KernelOutput<Name extends KernelName> = Kernels[Name]['output']
