/**
 * A kernel by its name, to what computes it: pages where a model is loaded, postings, or neither.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { ShardStore } from './bm25/shard-store.js'
import { checkKernelLimit, checkKernelName } from './kernel-limits.js'
import { type MemoryKernels, runTopK } from './memory-kernels.js'
import type { KernelCall } from './worker-protocol.js'

/** Gives the kernel's output or a promise of it. Throws UnsupportedError, InvalidInputError, and what the kernel says. */
export function runWorkerKernel(
  kernel: KernelCall,
  { shards, memory }: { readonly shards: ShardStore; readonly memory: MemoryKernels | undefined },
): unknown {
  checkKernelName(kernel.name)
  switch (kernel.name) {
    case 'top-k':
      return runTopK(kernel.input)
    case 'bm25-load':
      checkKernelLimit('bm25-load', 'shardBytes', kernel.input.shard.length)
      return shards.load(kernel.input.key, kernel.input.shard)
    case 'bm25-unload':
      return shards.unload(kernel.input.key)
    case 'bm25-search':
      return shards.search(kernel.input)
    case 'page-bounds':
      return loaded(memory).runPageBounds(kernel.input)
    case 'page-scores':
      return loaded(memory).runPageScores(kernel.input)
    case 'partial-attention':
      return loaded(memory).runPartialAttention(kernel.input)
    case 'choose-pages':
      return loaded(memory).runChoosePages(kernel.input)
  }
}

function loaded(memory: MemoryKernels | undefined): MemoryKernels {
  if (memory === undefined)
    throw new InvalidInputError('The device has no model, so it has no pages; load one first.')
  return memory
}
