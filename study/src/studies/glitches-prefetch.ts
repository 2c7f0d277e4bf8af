/**
 * Merging M of an FPGA's matrix-vector loads into one. The paper has figures of M = 4 only, and says that it is the best.
 * M = 2 is inferred from a time that falls with 1/M: t(M) = a + b/M with a + b = 1 and t(4) as published. Of M = 8 nothing
 * follows, since what makes it worse than 4 is not in that form.
 */
import { decimals, fixed } from '../rounding.js'
import type { StudyTable } from '../study.js'
import { asPublished, type Comparison, replayed } from './glitches-compare.js'
import { GPU_IDS, GPU_NAMES, PAPER_PREFETCH } from './glitches-paper.js'

export function prefetchTable(comparison: Comparison): StudyTable {
  const factors = PAPER_PREFETCH.map(({ tokens, factor }) => ({ key: `at${tokens}`, tokens, factor }))
  const row = (mergedLoads: number, basis: string, factorOf: (published: number) => number | null) => ({
    mergedLoads,
    ...Object.fromEntries(factors.map(({ key, factor }) => [key, factorOf(factor)])),
    ...Object.fromEntries(GPU_IDS.map((gpu) => [gpu, ratioOf(comparison, mergedLoads, gpu)])),
    basis,
  })
  return {
    title: 'Prefetch: M loads of the FPGA merged into one',
    columns: [
      { key: 'mergedLoads', label: 'M' },
      ...factors.map(({ key, tokens }) => ({ key, label: `decode at length ${tokens}`, unit: '×' })),
      ...GPU_IDS.map((gpu) => ({ key: gpu, label: `mixed with ${GPU_NAMES[gpu]} over 8 GPUs`, unit: '×' })),
      { key: 'basis', label: 'basis' },
    ],
    rows: [
      row(1, 'by definition', () => 1),
      row(2, 'inferred: time falls with 1/M', inferredOfTwo),
      row(4, 'published', (factor) => factor),
      row(8, 'no figure; the paper says that 4 is the best', () => null),
    ],
  }
}

/** t(2) = a + b/2 where a + b = 1 and a + b/4 = 1/factor. */
export function inferredOfTwo(publishedOfFour: number): number {
  const b = (1 - 1 / publishedOfFour) / (3 / 4)
  return fixed(1 / (1 - b / 2), 3)
}

function ratioOf(comparison: Comparison, mergedLoads: number, gpu: (typeof GPU_IDS)[number]): number | null {
  if (mergedLoads !== 1 && mergedLoads !== 4) return null
  const { overGpu } = comparison.ratios({ ...asPublished(gpu), mergedLoads }, replayed)
  return decimals(overGpu, 3)
}
