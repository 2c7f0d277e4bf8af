/**
 * GLITCHES (HPEC'24) in numbers: what is printed in the paper, and, apart from that, the two constants that were fitted to
 * its results.
 */

export const GPU_IDS = ['v100s', 'a100-80-pcie'] as const
export type GpuId = (typeof GPU_IDS)[number]

export const GPU_NAMES: Readonly<Record<GpuId, string>> = { v100s: 'V100S', 'a100-80-pcie': 'A100' }

export const PAPER_MODEL = 'llama-2-7b'

/** Tokens in and out; a workload is a pair of them. */
export const LENGTHS = [128, 256, 512, 1024] as const

/** KV of a token in 8 bits, all layers: 2 · 32 · 4096. */
export const WIRE_BYTES_PER_TOKEN = 262_144

/** What 1 GPU and 7 U280 are to 8 of a kind; geometric means over the workloads. */
export interface Ratios {
  readonly overGpu: number
  readonly overFpga: number
}

export const PAPER_THROUGHPUT: Readonly<Record<GpuId, Ratios>> = {
  v100s: { overGpu: 1.34, overFpga: 1.21 },
  'a100-80-pcie': { overGpu: 1.28, overFpga: 1.23 },
}

export const PAPER_COST_EFFICIENCY: Readonly<Record<GpuId, Ratios>> = {
  v100s: { overGpu: 1.9, overFpga: 1.14 },
  'a100-80-pcie': { overGpu: 2.38, overFpga: 1.08 },
}

/**
 * Fitted, not published: milliseconds a token of decoding on the GPU with which the closed form gives the paper's ratios
 * over GPUs. The paper's table has 29.52 and 24.26 at 1,792 tokens, which is 28.3 and 23.3 at `FIT_TOKENS`. Ratios over
 * FPGAs hardly depend on it.
 */
export const FITTED_DECODE_MS: Readonly<Record<GpuId, number>> = { v100s: 23.7, 'a100-80-pcie': 22.5 }
/** Mean over the workloads of a sequence half-way through its output. */
export const FIT_TOKENS = 720

/** Decoding with M loads merged against none, by length. Only M = 4, said to be the best, has published figures. */
export const PAPER_PREFETCH: readonly { readonly tokens: number; readonly factor: number }[] = [
  { tokens: 128, factor: 1.2 },
  { tokens: 1024, factor: 1.16 },
]
