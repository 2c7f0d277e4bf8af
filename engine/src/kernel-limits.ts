/** Kernels of the driver on ONNX Runtime, and the largest inputs that each takes. */
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import { BM25_LIMITS } from './bm25/bm25.js'
import type { DriverDescription } from './device-driver.js'
import type { KernelName } from './kernels.js'
import { STEP_ROWS_MAX } from './limits.js'

/** 262,144 tokens: more than any context here, and scores of them are still a fraction of a megabyte a head. */
const PAGES_MAX = 16_384

const LIMITS: Readonly<Record<KernelName, Readonly<Record<string, number>>>> = {
  'page-bounds': { pages: PAGES_MAX },
  'page-scores': { pages: PAGES_MAX },
  'top-k': { rows: 1_024, columns: 65_536 },
  'partial-attention': { pages: PAGES_MAX },
  'choose-pages': { pages: PAGES_MAX, rivals: PAGES_MAX },
  'bm25-load': { shardBytes: 512 << 20 },
  'bm25-unload': {},
  'bm25-search': BM25_LIMITS,
}

export const KERNEL_DESCRIPTIONS: DriverDescription['kernels'] = Object.entries({
  step: { rows: STEP_ROWS_MAX },
  ...LIMITS,
}).map(([name, limits]) => ({ name, version: 1, limits }))

/** Throws UnsupportedError for a name that is no kernel's. */
export function checkKernelName(name: string): void {
  if (Object.hasOwn(LIMITS, name)) return
  throw new UnsupportedError(`This device has no kernel ${name}; it has ${Object.keys(LIMITS).join(', ')}.`)
}

/** Throws InvalidInputError for a size above the declared one. */
export function checkKernelLimit(kernel: KernelName, limit: string, size: number): void {
  const most = LIMITS[kernel][limit] ?? 0
  if (size <= most) return
  throw new InvalidInputError(`The kernel ${kernel} takes at most ${most} ${limit}, not ${size}.`)
}
