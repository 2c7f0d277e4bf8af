/** A kernel by its name, to what computes it: a model's pages, or postings. */
import type { ShardStore } from './bm25/shard-store.js'
import { checkKernelLimit, checkKernelName } from './kernel-limits.js'
import { type MemoryKernels, runTopK } from './memory-kernels.js'
import type { AttentionCall, SearchCall } from './worker-protocol.js'

/** Gives the kernel's output or a promise of it. Throws UnsupportedError, InvalidInputError, and what the kernel says. */
export function runAttentionKernel(kernel: AttentionCall, memory: MemoryKernels): unknown {
  checkKernelName(kernel.name)
  switch (kernel.name) {
    case 'top-k':
      return runTopK(kernel.input)
    case 'page-bounds':
      return memory.runPageBounds(kernel.input)
    case 'page-scores':
      return memory.runPageScores(kernel.input)
    case 'partial-attention':
      return memory.runPartialAttention(kernel.input)
    case 'choose-pages':
      return memory.runChoosePages(kernel.input)
  }
}

/** As `runAttentionKernel`. */
export function runSearchKernel(kernel: SearchCall, shards: ShardStore): unknown {
  checkKernelName(kernel.name)
  switch (kernel.name) {
    case 'bm25-load':
      checkKernelLimit('bm25-load', 'shardBytes', kernel.input.shard.length)
      return shards.load(kernel.input.key, kernel.input.shard)
    case 'bm25-unload':
      return shards.unload(kernel.input.key)
    case 'bm25-search':
      return shards.search(kernel.input)
  }
}
